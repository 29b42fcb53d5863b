-- commit makes changes of several records, all of them if each has the revision that is said,
-- '*' for any, or none. It returns the revision of each, '0' of one that is not there; or the
-- number of the first change that does not fit, alone, after an empty string.
-- KEYS: the last revision, the index, the ends, the name, the records. ARGV: channel, what
-- records' keys begin with, what it says if it has a name (else ''), memory of names in
-- milliseconds, then of each change key, was, what to do (write, erase, check), value, time to
-- live in milliseconds (0 for ever).
local channel, records, says = ARGV[1], ARGV[2], ARGV[3]
local out = {}
if says ~= '' then
  local done = redis.call('GET', KEYS[4])
  if done then
    local s, revs = string.match(done, '^C (%S+) (.*)$')
    if s ~= says then return redis.error_reply('REFUSED the OpID was another operation') end
    for r in string.gmatch(revs, '%S+') do out[#out+1] = r end
    return out
  end
end
local had = {}
for i = 5, #KEYS do
  local was, r = ARGV[5*i-19], redis.call('HGET', KEYS[i], 'r')
  had[i] = r
  if was ~= '*' and (r or '0') ~= was then return {'', tostring(i - 4)} end
end
local rev = nil
for i = 5, #KEYS do
  local at = 5 * i - 20
  local key, what, value, ttl = ARGV[at], ARGV[at+2], ARGV[at+3], ARGV[at+4]
  if what == 'check' then
    out[#out+1] = had[i] or '0'
  else
    rev = rev or nextrev(KEYS[1]) -- one for all
    if what == 'write' then
      redis.call('HSET', KEYS[i], 'v', value, 'r', rev)
      if ttl ~= '0' then
        redis.call('PEXPIRE', KEYS[i], ttl)
      elseif had[i] then
        redis.call('PERSIST', KEYS[i])
      end
      note(KEYS[2], KEYS[3], records, key, ttl)
      tell(channel, key, rev, ttl, value)
      out[#out+1] = rev
    else
      if had[i] then
        redis.call('DEL', KEYS[i])
        redis.call('ZREM', KEYS[2], key)
        redis.call('ZREM', KEYS[3], key)
        tell(channel, key, rev, '-1', '')
      end
      out[#out+1] = '0'
    end
  end
end
if says ~= '' then redis.call('SET', KEYS[4], 'C ' .. says .. ' ' .. table.concat(out, ' '), 'PX', ARGV[4]) end
return out
