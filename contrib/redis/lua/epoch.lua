-- epoch says when the engine's data began, by which they are known, and how old they are.
-- KEYS: the engine's birth.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('SET', KEYS[1], string.format('%.0f', now), 'NX')
local born = tonumber(redis.call('GET', KEYS[1]))
return {born, math.max(0, now - born)}
