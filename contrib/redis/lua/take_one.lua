-- take_one decides what most draws are: one meter, one token for each unit, nothing that
-- happens seldom. Where it is not that, it changes nothing and returns {-1}: then take is
-- asked, which decides the same in all cases. See meter for what the numbers mean.
-- KEYS: the meter, the name of the draw, the engine's birth.
-- ARGV: as take has, up to burst.
local r = redis.call('MGET', KEYS[1], KEYS[2])
local s, named = r[1], ARGV[2] == '1'
if not s or named and r[2] then return {-1} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rate, last, held, K, b, c, seq, from, count, rest =
  string.match(s, '^(%d+ %d+ %d+) (%d+) (%d+) (%S+) (%d+) (%S+) (%d+) (%d+) (%d+)(.*)$')
last, held, K, b, c, seq, count = tonumber(last), tonumber(held), tonumber(K), tonumber(b), tonumber(c), tonumber(seq), tonumber(count)
local memory, lo, hi, left = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local n, p, u = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
if rate ~= ARGV[8] .. ' ' .. ARGV[9] .. ' ' .. ARGV[10] or now < last or held > now or count >= 23 or K > 1e15 or b > now then return {-1} end

local d = now - b
local q = math.floor(d / p)
local have = u - K + c + q * n + math.floor((d - q * p) * n / p)
local tu, ta, tb, tc, book
if count > 0 then
  tu, ta, tb, tc, book = string.match(rest, '^ (%S+) (%S+) (%S+) (%S+) (.*)$')
  tu, ta, tb, tc = tonumber(tu), tonumber(ta), tonumber(tb), tonumber(tc)
  if ta + memory <= now then return {-1} end
end
if have >= u then
  have = u
  if book then b, c, tb, tc = now, K, now, K else K, b, c = 0, now, 0 end
end

local function ready(k) -- when k tokens are there, from now
  k = k - u + K - c
  local q = math.floor(k / n)
  local t = b + q * p + math.ceil((k - q * n) * p / n) - now
  if t < 0 then return 0 end
  return t
end
local units, after, every = have - left, 0, 0
if units > hi then units = hi end
if units < lo then
  after = ready(lo + left)
  local wait = tonumber(ARGV[6]) - after
  if wait < 0 then return {0, 0, 0, after} end
  every = tonumber(ARGV[7])
  units = lo + math.min(hi - lo, math.floor(wait / every))
end

local tail = ''
if book then
  if (now - tb) * n > (K - tc) * p then tb, tc = now, K end
  if not named then tail = string.format(' %.0f %.0f %.0f %.0f %s', tu, ta, tb, tc, book) end
end
if named then
  seq, count = seq + 1, count + 1
  if book then
    tail = string.format(' %.0f %.0f 0 4503599627370496 %s;%.0f,%.0f,0,4503599627370496,%.0f,%.0f', seq, now, book, tu, ta, tb, tc)
  else
    tail = string.format(' %.0f %.0f 0 4503599627370496 %.0f,%.0f', seq, now, b, c)
  end
end
K = K + units
local k = K - c
q = math.floor(k / n)
local ends = b + q * p + math.ceil((k - q * n) * p / n) - now
if named and ends < memory then ends = memory end
if book and not named and ends < ta + memory - now then ends = ta + memory - now end
redis.call('SET', KEYS[1], string.format('%s %.0f %.0f %.0f %.0f %.0f %.0f %s %.0f%s', rate, now, held, K, b, c, seq, from, count, tail),
  'PX', string.format('%.0f', math.min(math.ceil(ends / 1000) + 1, 315360000000)))
local retry = 0
if units < hi then retry = ready(1 + left) end
if named then
  redis.call('SET', KEYS[2], string.format('T %s %.0f %.0f %.0f %.0f %.0f %.0f %.0f %d %s', ARGV[4], units, now + after, every, now + retry, seq, units, units, #KEYS[1], KEYS[1]),
    'PX', string.format('%.0f', math.ceil(memory / 1000)))
end
return {units, after, every, retry}
