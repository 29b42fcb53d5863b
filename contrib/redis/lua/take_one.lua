-- take_one decides what most draws are: one meter, one token for each unit, nothing that
-- happens seldom. Where it is not that, it changes nothing and returns {-1}: then take is
-- asked, which decides the same in all cases. See meter for what the numbers mean. What stays
-- as it is, or is written twice, is kept as text: to read and write numbers is what costs.
-- KEYS: the meter, the name of the draw, the engine's birth.
-- ARGV: as take has.
local floor, ceil, format = math.floor, math.ceil, string.format
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
local rate = ARGV[8] .. ' ' .. ARGV[9] .. ' ' .. ARGV[10] .. ' '
local last, K, bt, ct, rest = 0, 0, now, 0
local seq, ta, tw, hb, hc, tb, tc, count, book
if s then
  if string.sub(s, 1, #rate) ~= rate then return {-1} end
  if named then
    last, K, bt, ct, seq, ta, tw, hb, hc, tb, tc, count, book = string.match(s,
      '^(%d+) (%d+) (%d+) (%S+) (%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (%S+) (%d+)(.*)$', #rate + 1)
  end
  if not book then
    last, K, bt, ct, rest = string.match(s, '^(%d+) (%d+) (%d+) (%S+)()', #rate + 1)
  end
else -- it is full; unless it is cold, and was born not long ago
  if ARGV[12] == '1' then
    local born = redis.call('GET', KEYS[3])
    if not born or (now - born - 1) * ARGV[8] < ARGV[10] * ARGV[9] then return {-1} end
  end
end
local n, p, u, b, c = ARGV[8] + 0, ARGV[9] + 0, ARGV[10] + 0, bt + 0, ct + 0
local lo, hi, left = ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0
K = K + 0
if now < last + 0 or b > now or K > 1e15 then return {-1} end

local d = now - b
local q = floor(d / p)
local have = u - K + c + q * n + floor((d - q * p) * n / p)
if rest and rest <= #s then
  seq, ta, tw, hb, hc, tb, tc, count, book = string.match(s, '^ (%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (%S+) (%d+)(.*)$', rest)
end
if book and ta + ARGV[1] <= now then return {-1} end
local full = have >= u
if full then
  have, b, c = u, now, K
  if not book then K, c = 0, 0 end
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

local at = format('%d', now)
if full then
  bt, ct = at, format('%d', c)
  if book then tb, tc = bt, ct end
end
rest = ''
if book then
  local B, C = tb + 0, tc + 0
  if (now - B) * n > (K - C) * p then B, C, tb, tc = now, K, at, format('%d', K) end
  if named then
    if count + 0 >= 4 and (C - c) - (B - b) * n / p > tw + units then
      if (B - hb) * n > (C - hc) * p then hb, hc = tb, tc end
      seq = seq + 1
      rest = format(' %d ', seq) .. at .. format(' %d ', tw + units) .. hb .. ' ' .. hc .. ' 0 4503599627370496 ' .. count .. book
    elseif count + 0 >= 16 then
      return {-1}
    else
      local entry = ';' .. seq .. ',' .. ta .. ',' .. hb .. ',' .. hc .. ',' .. tb .. ',' .. tc
      seq = seq + 1
      rest = format(' %d ', seq) .. at .. format(' %d 0 4503599627370496 0 4503599627370496 %d', units, count + 1) .. book .. entry
    end
    ta = now
  else
    rest = ' ' .. seq .. ' ' .. ta .. ' ' .. tw .. ' ' .. hb .. ' ' .. hc .. ' ' .. tb .. ' ' .. tc .. ' ' .. count .. book
  end
elseif named then
  seq, ta = now + 1, now
  rest = format(' %d ', seq) .. at .. format(' %d 0 4503599627370496 0 4503599627370496 1 ', units) .. at .. ' ' .. bt .. ',' .. ct
end
K = K + units
local k = K - c
q = floor(k / n)
local ends = b + q * p + ceil((k - q * n) * p / n) - now
if ta and ends < ta + ARGV[1] - now then ends = ta + ARGV[1] - now end
redis.call('SET', KEYS[1], rate .. at .. format(' %d ', K) .. bt .. ' ' .. ct .. rest,
  'PX', format('%d', math.min(ceil(ends / 1000) + 1, 315360000000)))
local retry = 0
if units < hi then retry = ready(1 + left) end
if named then
  redis.call('SET', KEYS[2], format('T %s %d %d %d %d %d = = %d %s', ARGV[4], units, now + after, every, now + retry, seq, #KEYS[1], KEYS[1]),
    'PX', ARGV[2])
end
return {units, after, every, retry}
