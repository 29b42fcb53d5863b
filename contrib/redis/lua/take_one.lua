-- take_one decides what most draws are: one meter, one token for each unit, nothing that
-- happens seldom. Where it is not that, it changes nothing and returns {-1}: then take is
-- asked, which decides the same in all cases. See meter for what the numbers mean.
-- KEYS: the meter, the name of the draw, the engine's birth.
-- ARGV: as take has.
local floor, ceil = math.floor, math.ceil
local named, s = ARGV[2] ~= ''
if named then
  local r = redis.call('MGET', KEYS[1], KEYS[2])
  if r[2] then return {-1} end
  s = r[1]
else
  s = redis.call('GET', KEYS[1])
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if not s then -- it is full; unless it is cold, and was born not long ago
  if ARGV[12] == '1' then
    local born = redis.call('GET', KEYS[3])
    if not born or (now - born - 1) * ARGV[8] < ARGV[10] * ARGV[9] then return {-1} end
  end
  s = string.format('%s %s %s %d 0 %d 0', ARGV[8], ARGV[9], ARGV[10], now, now)
end
local n, p, u, last, K, b, c, rest = string.match(s, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+)(.*)$')
if n ~= ARGV[8] or p ~= ARGV[9] or u ~= ARGV[10] then return {-1} end
K, b, c = K + 0, b + 0, c + 0
n, p, u = n + 0, p + 0, u + 0
local lo, hi, left = ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0
if now < last + 0 or b > now or K > 1e15 then return {-1} end

local d = now - b
local q = floor(d / p)
local have = u - K + c + q * n + floor((d - q * p) * n / p)
local seq, ta, tw, hb, hc, tb, tc, count, book
if rest ~= '' then
  seq, ta, tw, hb, hc, tb, tc, count, book = string.match(rest, '^ (%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (%S+) (%d+)(.*)$')
  ta, tb, tc = ta + 0, tb + 0, tc + 0
  if ta + ARGV[1] <= now then return {-1} end
end
if have >= u then
  have = u
  if book then b, c, tb, tc = now, K, now, K else K, b, c = 0, now, 0 end
end

local units, after, every, ready = have - left, 0, 0
if units >= hi then
  units = hi
else
  ready = function(k) -- when k tokens are there, from now
    k = k - u + K - c
    local q = floor(k / n)
    local t = b + q * p + ceil((k - q * n) * p / n) - now
    if t < 0 then return 0 end
    return t
  end
end
if units < lo then
  after = ready(lo + left)
  local wait = ARGV[6] + 0 - after
  if wait < 0 then return {0, 0, 0, after} end
  every = ARGV[7] + 0
  units = lo + math.min(hi - lo, floor(wait / every))
end

if book then
  if (now - tb) * n > (K - tc) * p then tb, tc = now, K end
  if named then
    seq, hc, count = seq + 1, hc + 0, count + 0
    if count >= 4 and (tc - c) - (tb - b) * n / p > tw + units then
      if (tb - hb) * n > (tc - hc) * p then hb, hc = tb, tc end
      rest = string.format(' %d %d %d %d %d 0 4503599627370496 %d%s', seq, now, tw + units, hb, hc, count, book)
    elseif count >= 16 then
      return {-1}
    else
      rest = string.format(' %d %d %d 0 4503599627370496 0 4503599627370496 %d%s;%d,%d,%s,%d,%d,%d', seq, now, units,
        count + 1, book, seq - 1, ta, hb, hc, tb, tc)
    end
    ta = now
  else
    rest = string.format(' %s %d %s %s %s %d %d %s%s', seq, ta, tw, hb, hc, tb, tc, count, book)
  end
elseif named then
  seq, ta = now + 1, now
  rest = string.format(' %d %d %d 0 4503599627370496 0 4503599627370496 1 %d %d,%d', seq, now, units, now, b, c)
end
K = K + units
local k = K - c
q = floor(k / n)
local ends = b + q * p + ceil((k - q * n) * p / n) - now
if ta and ends < ta + ARGV[1] - now then ends = ta + ARGV[1] - now end
redis.call('SET', KEYS[1], string.format('%d %d %d %d %d %d %d%s', n, p, u, now, K, b, c, rest),
  'PX', math.min(ceil(ends / 1000) + 1, 315360000000))
local retry = 0
if units < hi then retry = ready(1 + left) end
if named then
  redis.call('SET', KEYS[2], string.format('T %s %d %d %d %d %d = = %d %s', ARGV[4], units, now + after, every, now + retry, seq, #KEYS[1], KEYS[1]),
    'PX', ARGV[2])
end
return {units, after, every, retry}
