-- hold keeps everybody from a meter, or ends that.
-- KEYS: the meter, the engine's birth. ARGV: memory of names, n, p, burst, cold, for how long.
local d = tonumber(ARGV[6])
if d == 0 and redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
local m = load(KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1' and KEYS[2])
if d == 0 then
  m.held = 0
  if tokens(m) < 0 then -- what is owed is forgiven, and nothing of it can be given back
    close(m)
    m.K, m.b, m.c = m.u, now, 0
  end
elseif now + d > m.held then
  m.held = now + d
  if cost(m.u, m.n, m.p) <= math.max(d, 60000000) then
    -- At its end there is one token at most: a gap like any other.
    local c = m.K - (m.u - 1)
    if greater(m, m.held, c, m.b, m.c) then m.b, m.c = m.held, c end
    if m.book and greater(m, m.held, c, m.tb, m.tc) then m.tb, m.tc = m.held, c end
  end
end
save(m)
return 1
