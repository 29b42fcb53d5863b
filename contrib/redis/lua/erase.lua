-- erase takes away the record of the revision that is said, '*' for any. It returns 0 if
-- there is none, 1 if it has another revision, 2 if it is gone now.
-- KEYS: the record, the last revision, the index, the ends. ARGV: key, was, channel.
local r = redis.call('HGET', KEYS[1], 'r')
if not r then return 0 end
if ARGV[2] ~= '*' and r ~= ARGV[2] then return 1 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
tell(ARGV[3], ARGV[1], nextrev(KEYS[2]), '-1', '')
return 2
