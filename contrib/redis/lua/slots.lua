-- slots decides all that concerns slots. Those of one key are one value: the leases, the
-- claims that wait, and what tenants have had. A script's work grows with the leases and
-- claims of its key: who has many should wait at home, and claim for the first.
--
-- A slot that comes free goes to the claim that is next as a short lease, an offer, and its
-- waiter is told; it asks again, which makes the lease as long as it is to be. So a waiter
-- that died costs the length of an offer, and one that was not told finds its lease when it
-- next asks.
--
-- A server that has lost its data knows no lease from before. Claims that are cold get nothing
-- until its data are as old as a lease is long, and a holder that renews such a lease, whose
-- fence is from before the data began, is believed if nothing else was given.
--
-- KEYS: the last fence, the engine's birth, the slots, of one key each. ARGV: what to do, length
-- of an offer (milliseconds), then
--   acquire: holder, units, limit, ttl, wait (milliseconds; 0 not at all), priority, tenant,
--            weight, channel and token to tell it by, whether it asks for the first time, cold
--   leave:   holder, token
--   resize:  lease, new units, limit
--   renew:   ttl, leases
--   release: leases
-- A lease is the number of its key, holder, fence, units, and for how long (milliseconds) its
-- holder may go on. acquire, leave and resize return what has become of it, the fence, for how
-- long (milliseconds) nothing will happen by itself, and how many units others want: 1 there is
-- a lease, 2 it waits, 3 there is no room, 4 there is no such lease, 5 another one waits in its
-- place. renew returns the units of each lease, 0 if it has ended, and how many others want.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000) -- so an end is a millisecond later
local doing, offer = ARGV[1], tonumber(ARGV[2])
local asks = doing == 'acquire' and ARGV[3] or ''
local born = tonumber(redis.call('GET', KEYS[2]))
if not born then
  born = t[1] * 1000000 + t[2]
  redis.call('SET', KEYS[2], string.format('%.0f', born))
end
local begun = math.ceil(born / 1000)

-- S: leases l by holder {e end, u units, f fence, k whose it was given to, x ttl if it was
-- learned of}; claims q {h holder, u units, m limit, x ttl, d end of its wait, p priority, t tenant,
-- w weight, c channel, k token, s its number, o whether it is cold}; by priority v virtual time; by
-- priority and tenant f the tag after its last lease; n the last claim's number.

local function fence()
  local r = t[1] * 1000000 + t[2]
  local last = tonumber(redis.call('GET', KEYS[1]) or '0')
  if r <= last then r = last + 1 end
  local s = string.format('%.0f', r)
  redis.call('SET', KEYS[1], s)
  return s
end

-- serve gives leases to whoever is next, for as long as they fit: the highest priority, then
-- the tenant with the lowest tag (start-time fair queuing), then the one that came first.
local function serve(S)
  local used = 0
  for _, l in pairs(S.l) do used = used + l.u end
  while #S.q > 0 do
    local at, best, tag = 0, nil, 0
    for i, w in ipairs(S.q) do
      local mine = math.max(S.v[w.p] or 0, S.f[w.p .. '|' .. w.t] or 0)
      if not best or tonumber(w.p) > tonumber(best.p) or
        w.p == best.p and (mine < tag or mine == tag and w.s < best.s) then
        at, best, tag = i, w, mine
      end
    end
    if used + best.u > best.m or best.o and now < begun + best.x then return end
    table.remove(S.q, at)
    S.v[best.p] = tag
    S.f[best.p .. '|' .. best.t] = tag + best.u / best.w
    local ttl = best.x
    if best.h ~= asks then
      ttl = math.min(ttl, offer)
      redis.call('PUBLISH', best.c, best.k)
    end
    S.l[best.h] = {e = now + ttl + 1, u = best.u, f = fence(), k = best.k}
    used = used + best.u
  end
  S.v, S.f = {}, {}
end

local all = {}

-- open is the slots of a key, of which what has ended is gone.
local function open(i)
  if all[i] then return all[i] end
  local S = {}
  local raw = redis.call('GET', KEYS[2+i])
  if raw then S = cjson.decode(raw) end
  S.l, S.q, S.f, S.v, S.n = S.l or {}, S.q or {}, S.f or {}, S.v or {}, S.n or 0
  for h, l in pairs(S.l) do
    if l.e <= now then S.l[h] = nil end
  end
  for i = #S.q, 1, -1 do
    if S.q[i].d <= now then table.remove(S.q, i) end
  end
  serve(S)
  all[i] = S
  return S
end

local function save(i, S)
  local last = now
  for _, l in pairs(S.l) do last = math.max(last, l.e) end
  for _, w in ipairs(S.q) do last = math.max(last, w.d) end
  if last <= now then
    redis.call('DEL', KEYS[2+i])
  else
    redis.call('SET', KEYS[2+i], cjson.encode(S), 'PX', string.format('%.0f', last - now + 1))
  end
end

local function queued(S, holder)
  for i, w in ipairs(S.q) do
    if w.h == holder then return i, w end
  end
end

local function wanted(S)
  local n = 0
  for _, w in ipairs(S.q) do n = n + w.u end
  return n
end

-- lease is the live one that begins at ARGV[at], or nil, and the slots of its key. One that is
-- not known is learned of if it can be.
local function lease(at)
  local S, h, f = open(tonumber(ARGV[at])), ARGV[at+1], ARGV[at+2]
  local l, u, left = S.l[h], tonumber(ARGV[at+3]), tonumber(ARGV[at+4])
  if l then
    if l.f == f then return l, S end
    return nil, S
  end
  local n = tonumber(f)
  if doing == 'release' or left <= 0 or u < 1 or n == 0 or n >= born or queued(S, h) then return nil, S end
  for _, other in pairs(S.l) do
    if tonumber(other.f) >= born then return nil, S end
  end
  if tonumber(redis.call('GET', KEYS[1]) or '0') < n then redis.call('SET', KEYS[1], f) end
  l = {e = now + left + 1, u = u, f = f, k = ''}
  S.l[h] = l
  return l, S
end

local out
if doing == 'acquire' then
  local S, holder = open(1), ARGV[3]
  local l = S.l[holder]
  local u, m, ttl, wait = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
  local token, first = ARGV[12], ARGV[13] == '1'
  local cold = nil
  if ARGV[14] == '1' then cold = true end
  local at, mine = queued(S, holder)
  if l and l.u ~= u then
    return redis.error_reply('REFUSED the holder has a lease of other units')
  elseif mine and (mine.u ~= u or mine.p ~= ARGV[8] or mine.t ~= ARGV[9] or mine.w ~= tonumber(ARGV[10])) then
    return redis.error_reply('REFUSED the holder waits already, with another claim')
  elseif mine and mine.k ~= token and not first then
    return {5, '0', 0, 0}
  end
  if mine then
    if mine.k ~= token then redis.call('PUBLISH', mine.c, mine.k) end
    mine.m, mine.x, mine.d, mine.c, mine.k, mine.o = m, ttl, now + wait, ARGV[11], token, cold
  elseif not l then
    S.n = S.n + 1
    S.q[#S.q+1] = {h = holder, u = u, m = m, x = ttl, d = now + wait, p = ARGV[8], t = ARGV[9], w = tonumber(ARGV[10]),
      c = ARGV[11], k = token, s = S.n, o = cold}
  end
  if not l then serve(S) end
  l = S.l[holder]
  if l then
    l.e = now + ttl + 1
    out = {1, l.f, 0, wanted(S)}
  elseif wait <= 0 then
    at = queued(S, holder)
    table.remove(S.q, at)
    serve(S)
    out = {3, '0', 0, 0}
  else
    local next = now + 3600000
    for _, l in pairs(S.l) do next = math.min(next, l.e) end
    for _, w in ipairs(S.q) do
      if w.o and now < begun + w.x then next = math.min(next, begun + w.x) end
    end
    out = {2, '0', next - now, 0}
  end
elseif doing == 'leave' then
  local S, holder = open(1), ARGV[3]
  local at, mine = queued(S, holder)
  if mine and mine.k == ARGV[4] then table.remove(S.q, at) end
  if S.l[holder] and S.l[holder].k == ARGV[4] then S.l[holder] = nil end -- given to it meanwhile
  serve(S)
  out = {3, '0', 0, 0}
elseif doing == 'resize' then
  local l, S = lease(3)
  local units, limit, used = tonumber(ARGV[8]), tonumber(ARGV[9]), 0
  for _, l in pairs(S.l) do used = used + l.u end
  if not l then
    out = {4, '0', 0, 0}
  elseif units > l.u and (#S.q > 0 or used + units - l.u > limit or
    tonumber(l.f) < born and (not l.x or now < begun + l.x)) then
    out = {3, '0', 0, 0}
  else
    l.u = units
    serve(S)
    out = {1, l.f, 0, wanted(S)}
  end
elseif doing == 'renew' then
  local ttl = tonumber(ARGV[3])
  out = {}
  for at = 4, #ARGV, 5 do
    local l, S = lease(at)
    if l then
      l.e = now + ttl + 1
      if tonumber(l.f) < born then l.x = ttl end
      out[#out+1] = l.u
      out[#out+1] = wanted(S)
    else
      out[#out+1] = 0
      out[#out+1] = 0
    end
  end
else
  for at = 3, #ARGV, 5 do
    local l, S = lease(at)
    if l then
      S.l[ARGV[at+1]] = nil
      serve(S)
    end
  end
  out = {}
end
for i, S in pairs(all) do save(i, S) end
return out
