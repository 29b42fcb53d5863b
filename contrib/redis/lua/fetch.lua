-- fetch returns value, revision and time to live in milliseconds of each record, an empty
-- revision of one that is not there. KEYS: the records.
local out = {}
for _, k in ipairs(KEYS) do
  local h = redis.call('HMGET', k, 'v', 'r')
  out[#out+1] = h[1] or ''
  out[#out+1] = h[2] or ''
  out[#out+1] = tostring(redis.call('PTTL', k))
end
return out
