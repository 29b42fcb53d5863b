-- scan returns records in the order of their keys: key, value, revision and time to live of
-- each, then the last key of the index that it looked at, and how many those were. What has
-- expired leaves the index.
-- KEYS: the index. ARGV: from, to, what records' keys begin with, how many at most.
local list = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[4])
local out = {}
for i = 1, #list do
  local k = ARGV[3] .. list[i]
  local h = redis.call('HMGET', k, 'v', 'r')
  if h[2] then
    out[#out+1] = list[i]
    out[#out+1] = h[1]
    out[#out+1] = h[2]
    out[#out+1] = tostring(redis.call('PTTL', k))
  else
    redis.call('ZREM', KEYS[1], list[i])
  end
end
out[#out+1] = list[#list] or ''
out[#out+1] = tostring(#list)
return out
