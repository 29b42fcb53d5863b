-- slots decides all that concerns the slots of one key. They are one value: the leases, the
-- claims that wait, and what tenants have had. A script's work grows with the leases and
-- claims of its key: who has many should wait at home, and claim for the first.
--
-- A slot that comes free goes to the claim that is next as a short lease, an offer, and its
-- waiter is told; it asks again, which makes the lease as long as it is to be. So a waiter
-- that died costs the length of an offer, and one that was not told finds its lease when it
-- next asks.
--
-- KEYS: the slots, the last fence. ARGV: what to do, length of an offer (milliseconds),
-- holder, then
--   acquire: units, limit, ttl, wait (milliseconds; 0 not at all), priority, tenant, weight,
--            channel and token to tell it by, whether it asks for the first time
--   leave:   token
--   renew:   fence, ttl
--   release: fence
-- It returns what has become of it, the fence, and for how long (milliseconds) nothing will
-- happen by itself: 1 there is a lease, 2 it waits, 3 there is no room, 4 there is no such
-- lease, 5 another one waits in its place.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000) -- so an end is a millisecond later
local doing, offer, holder = ARGV[1], tonumber(ARGV[2]), ARGV[3]

-- S: leases l by holder {e end, u units, f fence, k whose it was given to}; claims q {h holder, u units, m limit,
-- x ttl, d end of its wait, p priority, t tenant, w weight, c channel, k token, s its number};
-- by priority v virtual time; by priority and tenant f the tag after its last lease; n the
-- last claim's number.
local S = {}
local raw = redis.call('GET', KEYS[1])
if raw then S = cjson.decode(raw) end
S.l, S.q, S.f, S.v, S.n = S.l or {}, S.q or {}, S.f or {}, S.v or {}, S.n or 0

local function fence()
  local r = t[1] * 1000000 + t[2]
  local last = tonumber(redis.call('GET', KEYS[2]) or '0')
  if r <= last then r = last + 1 end
  local s = string.format('%.0f', r)
  redis.call('SET', KEYS[2], s)
  return s
end

-- serve gives leases to whoever is next, for as long as they fit: the highest priority, then
-- the tenant with the lowest tag (start-time fair queuing), then the one that came first.
local function serve()
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
    if used + best.u > best.m then return end
    table.remove(S.q, at)
    S.v[best.p] = tag
    S.f[best.p .. '|' .. best.t] = tag + best.u / best.w
    local ttl = best.x
    if best.h ~= holder then
      ttl = math.min(ttl, offer)
      redis.call('PUBLISH', best.c, best.k)
    end
    S.l[best.h] = {e = now + ttl + 1, u = best.u, f = fence(), k = best.k}
    used = used + best.u
  end
  S.v, S.f = {}, {}
end

local function find()
  for i, w in ipairs(S.q) do
    if w.h == holder then return i, w end
  end
end

-- What has ended ends first.
for h, l in pairs(S.l) do
  if l.e <= now then S.l[h] = nil end
end
for i = #S.q, 1, -1 do
  if S.q[i].d <= now then table.remove(S.q, i) end
end
serve()

local out
local lease = S.l[holder]
if doing == 'acquire' then
  local u, m, ttl, wait = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
  local token, first = ARGV[12], ARGV[13] == '1'
  local at, mine = find()
  if lease and lease.u ~= u then
    return redis.error_reply('REFUSED the holder has a lease of other units')
  elseif mine and (mine.u ~= u or mine.p ~= ARGV[8] or mine.t ~= ARGV[9] or mine.w ~= tonumber(ARGV[10])) then
    return redis.error_reply('REFUSED the holder waits already, with another claim')
  elseif mine and mine.k ~= token and not first then
    return {5, '0', 0}
  end
  if mine then
    if mine.k ~= token then redis.call('PUBLISH', mine.c, mine.k) end
    mine.m, mine.x, mine.d, mine.c, mine.k = m, ttl, now + wait, ARGV[11], token
  elseif not lease then
    S.n = S.n + 1
    S.q[#S.q+1] = {h = holder, u = u, m = m, x = ttl, d = now + wait, p = ARGV[8], t = ARGV[9], w = tonumber(ARGV[10]),
      c = ARGV[11], k = token, s = S.n}
  end
  if not lease then serve() end
  lease = S.l[holder]
  if lease then
    lease.e = now + ttl + 1
    out = {1, lease.f, 0}
  elseif wait <= 0 then
    at = find()
    table.remove(S.q, at)
    serve()
    out = {3, '0', 0}
  else
    local next = now + 3600000
    for _, l in pairs(S.l) do next = math.min(next, l.e) end
    out = {2, '0', next - now}
  end
elseif doing == 'leave' then
  local at, mine = find()
  if mine and mine.k == ARGV[4] then table.remove(S.q, at) end
  if lease and lease.k == ARGV[4] then S.l[holder] = nil end -- given to it meanwhile
  serve()
  out = {3, '0', 0}
elseif not lease or lease.f ~= ARGV[4] then
  out = {4, '0', 0}
elseif doing == 'renew' then
  lease.e = now + tonumber(ARGV[5]) + 1
  out = {1, lease.f, 0}
else
  S.l[holder] = nil
  serve()
  out = {1, lease.f, 0}
end

local last = now
for _, l in pairs(S.l) do last = math.max(last, l.e) end
for _, w in ipairs(S.q) do last = math.max(last, w.d) end
if last <= now then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], cjson.encode(S), 'PX', string.format('%.0f', last - now + 1))
end
return out
