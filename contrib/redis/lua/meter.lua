-- A meter is what has been charged, and since when. With K tokens charged in all, and c of
-- them charged when the bucket was last full, at the instant b, there are at now
--
--   burst - (K - c) + floor((now - b) * n / p)
--
-- tokens: n of them come in p microseconds, in lowest terms. All are whole numbers below
-- 2^53, which Lua's doubles hold exactly; nothing is rounded, so nothing adds up.
--
-- What a named Take was charged may be corrected later, as if it had been another amount
-- from its own instant on. Then it matters when the bucket would have been full otherwise.
-- So each charge has its own gap: a pair (b, c) as above, of the instant b at which it was
-- made and the c tokens charged before. The bucket is full when all of them say so; the one
-- that says so last is the greatest, and counts. Changing a charge by d moves K by d, and c
-- of every later gap. Of the gaps between two charges that may be corrected only the
-- greatest can ever count: the book is a list of these charges, each with the greatest gap
-- after it.
--
-- The book is kept short. When it has some entries neighbours become one, with the greatest
-- gap between its charges: at once if the bucket lacked more, at that gap, than they were
-- charged, so that it hardly matters which of them was first, and else when the book is long,
-- those first that lacked most. What is corrected of such an entry counts from its first
-- charge if that gives back less, and from its last if that charges more: it may give back
-- too little, never too much.
--
-- It is stored as text, for each meter one value:
--
--   [H held ]n p u last K b c[ seq ta tw hb hc tb tc count from book]
--
-- held: nothing before. n, p, u: tokens, per, burst. last: when it was written. With a book
-- seq is the number of the last charge in it. Its last entry ended at ta with charges of tw in
-- all; hb and hc is the greatest gap in it, tb and tc the greatest after it. count is how many
-- entries it has, from the last number that is in it no more; book has the gap before all
-- and the other entries. take_one reads and writes this text, too.

local opmemory = tonumber(ARGV[1]) -- how long names are remembered, in microseconds
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local NONE = 4503599627370496 -- as the c of a gap: never the greatest. 2^52
local DAY = 86400000000

-- come is how many whole tokens come in within d, cost how long k tokens take, rounded up.
local function come(d, n, p)
  local q = math.floor(d / p)
  return q * n + math.floor((d - q * p) * n / p)
end
local function cost(k, n, p)
  local q = math.floor(k / n)
  return q * p + math.ceil((k - q * n) * p / n)
end

-- greater reports whether the gap (b1, c1) is the greater one.
local function greater(m, b1, c1, b2, c2)
  return (b1 - b2) * m.n > (c1 - c2) * m.p
end

local function int(x) return string.format('%d', x) end

-- tokens is how many there are, below zero in debt.
local function tokens(m)
  return m.u - (m.K - m.c) + come(now - m.b, m.n, m.p)
end

-- ready is when k tokens are there.
local function ready(m, k)
  local t = m.b + cost(k - m.u + m.K - m.c, m.n, m.p)
  if t < now then t = now end
  if t < m.held then t = m.held end
  return t
end

-- close makes all charges final: what is in the book cannot be corrected any more.
local function close(m) m.book = nil end

-- full notes that the bucket is full now.
local function full(m)
  m.b, m.c = now, m.K
  if m.book then
    m.tb, m.tc = now, m.K
  else
    m.K, m.c = 0, 0
  end
end

-- birth is when the engine's data began.
local function birth(key)
  local b = redis.call('GET', key)
  if b then return tonumber(b) end
  redis.call('SET', key, int(now))
  return now
end

-- load reads the meter under key, of the rate n per p and the burst u. One that is not there
-- is full, or, if born is the key of the engine's birth, as if it had been empty then. If it
-- is moved it has to be saved, even if nothing is charged.
local function load(key, n, p, u, born)
  local s = redis.call('GET', key)
  if not s then
    local m = {key = key, n = n, p = p, u = u, held = 0, K = 0, b = now, c = 0}
    if born then
      m.K, m.b = u, math.min(now, birth(born))
      if tokens(m) >= u then m.K, m.b = 0, now end
    end
    return m
  end
  local held, after = string.match(s, '^H (%d+) (.*)$')
  local n0, p0, u0, last, K, b, c, rest = string.match(after or s, '^(%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (%S+)(.*)$')
  local m = {key = key, n = tonumber(n0), p = tonumber(p0), u = tonumber(u0), held = tonumber(held or '0'),
    K = tonumber(K), b = tonumber(b), c = tonumber(c)}
  if rest ~= '' then
    local seq, ta, tw, hb, hc, tb, tc, count, from, book =
      string.match(rest, '^ (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
    m.seq, m.from, m.count, m.ta, m.tw = tonumber(seq), tonumber(from), tonumber(count), tonumber(ta), tonumber(tw)
    m.hb, m.hc, m.tb, m.tc, m.book = tonumber(hb), tonumber(hc), tonumber(tb), tonumber(tc), book
  end
  last = tonumber(last)
  if now < last then
    -- The clock went back. A little: it stands still. More: all moves with it, so that no
    -- tokens come of that, and none are missing until it has caught up.
    local d = last - now
    if d <= 1000000 then
      now = last
    else
      close(m)
      m.b, m.held, m.moved = m.b - d, math.max(0, m.held - d), true
    end
  end
  if m.n ~= n or m.p ~= p or m.u ~= u then
    -- Another rate: the tokens there are stay, up to the new burst, and so does the part of
    -- one that has come in. Of what was charged before nothing can be corrected any more.
    local have, was = tokens(m), m.u
    local q = math.floor((now - m.b) / m.p)
    local part = ((now - m.b - q * m.p) * m.n % m.p) / m.p
    close(m)
    m.n, m.p, m.u, m.c, m.moved = n, p, u, 0, true
    if have >= was or have >= u then
      m.K, m.b = 0, now
    else
      m.K, m.b = u - have, now - math.floor(part * p / n)
    end
  end
  if m.book and m.ta + opmemory <= now or m.K > NONE / 2 then close(m) end
  if not m.book and m.c ~= 0 then m.K, m.c = m.K - m.c, 0 end
  if m.b <= now and tokens(m) >= m.u then full(m) end
  return m
end

-- save writes m until nothing of it matters any more.
local function save(m)
  local ends = math.max(m.held, m.b + cost(m.K - m.c, m.n, m.p))
  if m.book then ends = math.max(ends, m.ta + opmemory) end
  if ends <= now then
    redis.call('DEL', m.key)
    return
  end
  local s = string.format('%d %d %d %d %d %d %d', m.n, m.p, m.u, now, m.K, m.b, m.c)
  if m.held > now then s = 'H ' .. int(m.held) .. ' ' .. s end
  if m.book then
    s = s .. string.format(' %d %d %d %d %d %d %d %d %d ', m.seq, m.ta, m.tw, m.hb, m.hc, m.tb, m.tc, m.count, m.from) .. m.book
  end
  redis.call('SET', m.key, s, 'PX', int(math.min(math.ceil((ends - now) / 1000) + 1, 315360000000)))
end

-- entries are the charges that may be corrected, oldest first, each {number of its last,
-- instant, greatest gap in it (b, c), greatest gap after it (b, c)}. The entry 0 has the
-- greatest gap before them.
local function entries(m)
  local list = {}
  local b, c, rest = string.match(m.book, '^([^,]+),([^,;]+)(.*)$')
  list[0] = {0, 0, 0, NONE, tonumber(b), tonumber(c)}
  for u, a, hb, hc, gb, gc in string.gmatch(rest, ';([^,]+),([^,]+),([^,]+),([^,]+),([^,]+),([^,;]+)') do
    list[#list+1] = {tonumber(u), tonumber(a), tonumber(hb), tonumber(hc), tonumber(gb), tonumber(gc)}
  end
  list[#list+1] = {m.seq, m.ta, m.hb, m.hc, m.tb, m.tc}
  return list
end

-- keep makes list the book of m, and the greatest gap in it the one that counts.
local function keep(m, list)
  m.b, m.c = list[0][5], list[0][6]
  local parts = {int(m.b) .. ',' .. int(m.c)}
  for i, e in ipairs(list) do
    if greater(m, e[3], e[4], m.b, m.c) then m.b, m.c = e[3], e[4] end
    if greater(m, e[5], e[6], m.b, m.c) then m.b, m.c = e[5], e[6] end
    if i < #list then
      parts[i+1] = string.format('%d,%d,%d,%d,%d,%d', e[1], e[2], e[3], e[4], e[5], e[6])
    else
      m.ta, m.hb, m.hc, m.tb, m.tc = e[2], e[3], e[4], e[5], e[6]
    end
  end
  m.book, m.count = table.concat(parts, ';'), #list
end

-- A book has at most so many entries; with few each charge has one of its own.
local most, few = 16, 4

-- shorten makes the book half as long: what is forgotten leaves it, then neighbours become
-- one, those first between which the bucket lacked most; the last stays as it is.
local function shorten(m)
  local list = entries(m)
  local function higher(b, c, e, i) -- the greater of (b, c) and a gap of e
    if greater(m, e[i], e[i+1], b, c) then return e[i], e[i+1] end
    return b, c
  end
  while #list > 1 and list[1][2] + opmemory <= now do
    local base, e = list[0], table.remove(list, 1)
    base[5], base[6] = higher(base[5], base[6], e, 3)
    base[5], base[6] = higher(base[5], base[6], e, 5)
    m.from = e[1]
  end
  while #list > most / 2 do
    local at = 1
    for i = 2, #list - 2 do
      if greater(m, list[at][5], list[at][6], list[i][5], list[i][6]) then at = i end
    end
    local one, two = list[at], table.remove(list, at + 1)
    local b, c = higher(one[3], one[4], one, 5)
    b, c = higher(b, c, two, 3)
    list[at] = {two[1], two[2], b, c, two[5], two[6]}
  end
  keep(m, list)
end

-- charge takes k tokens now, in a name if named.
local function charge(m, k, named)
  if m.book and greater(m, now, m.K, m.tb, m.tc) then m.tb, m.tc = now, m.K end
  if named and not m.book then
    m.book, m.count, m.seq, m.from = int(m.b) .. ',' .. int(m.c), 1, now + 1, now -- no number comes again
    m.ta, m.tw, m.hb, m.hc, m.tb, m.tc = now, k, 0, NONE, 0, NONE
  elseif named then
    if m.count >= few and (m.tc - m.c) - (m.tb - m.b) * m.n / m.p > m.tw + k then -- one entry
      if greater(m, m.tb, m.tc, m.hb, m.hc) then m.hb, m.hc = m.tb, m.tc end
      m.tw = m.tw + k
    else
      m.book = m.book .. string.format(';%d,%d,%d,%d,%d,%d', m.seq, m.ta, m.hb, m.hc, m.tb, m.tc)
      m.count, m.tw, m.hb, m.hc = m.count + 1, k, 0, NONE
    end
    m.seq, m.ta, m.tb, m.tc = m.seq + 1, now, 0, NONE
  end
  m.K = m.K + k
  if m.book and m.count > most then shorten(m) end
end
