-- write puts a value in place of the revision that is said, '*' for any, and returns the new
-- one, '0' if another is there.
-- KEYS: the record, the last revision, the index, the ends. ARGV: key, was, value, time to
-- live in milliseconds (0 for ever), channel, what records' keys begin with.
local r = redis.call('HGET', KEYS[1], 'r')
if ARGV[2] ~= '*' and (r or '0') ~= ARGV[2] then return '0' end
local rev = nextrev(KEYS[2])
redis.call('HSET', KEYS[1], 'v', ARGV[3], 'r', rev)
if ARGV[4] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
elseif r then
  redis.call('PERSIST', KEYS[1])
end
note(KEYS[3], KEYS[4], ARGV[6], ARGV[1], ARGV[4])
tell(ARGV[5], ARGV[1], rev, ARGV[4], ARGV[3])
return rev
