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

-- note keeps the index of records, all of one score so that they are in the order of their
-- keys, and when those end that do; and forgets some that have ended. records is what their
-- keys begin with, left the time to live in milliseconds, '0' for ever.
local function note(index, ends, records, key, left)
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  redis.call('ZADD', index, 0, key)
  if left == '0' then
    redis.call('ZREM', ends, key)
  else
    redis.call('ZADD', ends, string.format('%.0f', now + tonumber(left)), key)
  end
  for _, k in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.0f', now - 1), 'LIMIT', 0, 8)) do
    if redis.call('EXISTS', records .. k) == 0 then
      redis.call('ZREM', index, k)
      redis.call('ZREM', ends, k)
    end
  end
end

-- tell says to whoever follows that key has a new value, or is gone: left is then -1.
local function tell(channel, key, rev, left, value)
  redis.call('PUBLISH', channel, rev .. ' ' .. left .. ' ' .. #key .. ' ' .. key .. value)
end
