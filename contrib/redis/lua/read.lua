-- read returns a record's value, revision and time to live in milliseconds; nothing if there
-- is none. KEYS: the record.
local h = redis.call('HMGET', KEYS[1], 'v', 'r')
if not h[2] then return {} end
return {h[1], h[2], tostring(redis.call('PTTL', KEYS[1]))}
