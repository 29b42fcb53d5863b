-- add adds to a counter what its bounds allow, and returns what it was and what it is. A
-- counter is any int64: beyond what a double holds the server adds.
-- KEYS: the record, the last revision, the index, the ends, the name, a scratch key.
-- ARGV: key, delta, floor, ceil, whether they were given, time to live of a new record in
-- milliseconds (0 for ever), channel, what it says if it has a name (else ''), memory of
-- names in milliseconds, what records' keys begin with.
local says = ARGV[8]
if says ~= '' then
  local done = redis.call('GET', KEYS[5])
  if done then
    local old, total, s = string.match(done, '^A (%S+) (%S+) (.*)$')
    if s ~= says then return redis.error_reply('REFUSED the OpID was another operation') end
    return {old, total}
  end
end

-- less compares decimal numbers in their one form.
local function less(a, b)
  local na, nb = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
  if na ~= nb then return na end
  if na then
    local x = string.sub(b, 2) -- not in one assignment: there is an interpreter that gets that wrong
    b = string.sub(a, 2)
    a = x
  end
  if #a ~= #b then return #a < #b end
  return a < b
end

local had = redis.call('HGET', KEYS[1], 'v')
local old, delta, floor, ceil = had or '0', ARGV[2], ARGV[3], ARGV[4]
-- numeral says whether s is an int64 in its one form.
local function numeral(s)
  if s == '0' then return true end
  if #s > 20 or not string.match(s, '^%-?[1-9]%d*$') then return false end
  return not less('9223372036854775807', s) and not less(s, '-9223372036854775808')
end
if not numeral(old) then return redis.error_reply('REFUSED the value is no number') end
local up, total = string.sub(delta, 1, 1) ~= '-', old
if delta ~= '0' and (up and less(old, ceil) or not up and less(floor, old)) then
  if #old < 15 and #delta < 15 then
    total = string.format('%.0f', tonumber(old) + tonumber(delta))
  else
    redis.call('SET', KEYS[6], old)
    local r = redis.pcall('INCRBY', KEYS[6], delta)
    if type(r) == 'table' and r.err then
      redis.call('DEL', KEYS[6])
      if not string.find(r.err, 'overflow') then return redis.error_reply('REFUSED the value is no number') end
      if ARGV[5] == '0' then return redis.error_reply('REFUSED the sum is outside of int64') end
      total = up and ceil or floor
    else
      total = redis.call('GET', KEYS[6])
      redis.call('DEL', KEYS[6])
    end
  end
  if up and less(ceil, total) then total = ceil end
  if not up and less(total, floor) then total = floor end
elseif delta ~= '0' and ARGV[5] == '0' then
  return redis.error_reply('REFUSED the sum is outside of int64')
end
if total ~= old then
  local rev, left = nextrev(KEYS[2]), '0'
  redis.call('HSET', KEYS[1], 'v', total, 'r', rev)
  if not had then
    note(KEYS[3], KEYS[4], ARGV[10], ARGV[1], ARGV[6])
    if ARGV[6] ~= '0' then
      redis.call('PEXPIRE', KEYS[1], ARGV[6])
      left = ARGV[6]
    end
  else
    local p = redis.call('PTTL', KEYS[1])
    if p > 0 then left = tostring(p) end
  end
  tell(ARGV[7], ARGV[1], rev, left, total)
end
if says ~= '' then redis.call('SET', KEYS[5], 'A ' .. old .. ' ' .. total .. ' ' .. says, 'PX', ARGV[9]) end
return {old, total}
