-- A record is a hash of its value v and its revision r. Revisions, and the fences of slots,
-- come from one key: the larger of the last one plus one and the server's time, so that a
-- server that takes over, or has lost its data, goes on from there.
local function nextrev(key)
  local t = redis.call('TIME')
  local r = t[1] * 1000000 + t[2]
  local last = tonumber(redis.call('GET', key) or '0')
  if r <= last then r = last + 1 end
  local s = string.format('%.0f', r)
  redis.call('SET', key, s)
  return s
end

-- tell says to whoever follows that key has a new value, or is gone: left is then -1.
local function tell(channel, key, rev, left, value)
  redis.call('PUBLISH', channel, rev .. ' ' .. left .. ' ' .. #key .. ' ' .. key .. value)
end
