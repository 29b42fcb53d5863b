-- take decides a Draw over any number of meters.
-- KEYS: the meters, the name of the draw, the engine's birth.
-- ARGV: memory of names, the same in milliseconds if it has a name (else ''), min, max, keep,
-- wait, every, then for each meter n, p, burst, each, cold (1 or 0); times in microseconds.
-- It returns units, after, every, retry.
local meters = #KEYS - 2
local named = ARGV[2] ~= ''
local lo, hi, left, wait, every = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if named then
  local done = redis.call('GET', KEYS[meters+1])
  if done then
    local most, units, at, ev, re, size, rest = string.match(done, '^T (%S+) (%S+) (%S+) (%S+) (%S+) %S+ %S+ %S+ (%S+) (.*)$')
    if most ~= ARGV[4] or string.sub(rest, 1, tonumber(size)) ~= KEYS[1] then
      return redis.error_reply('REFUSED the OpID was another operation')
    end
    return {tonumber(units), math.max(0, tonumber(at) - now), tonumber(ev), math.max(0, tonumber(re) - now)}
  end
end
local units, at, list = hi, now, {}
for i = 1, meters do
  local n, p, u, each = tonumber(ARGV[3+5*i]), tonumber(ARGV[4+5*i]), tonumber(ARGV[5+5*i]), tonumber(ARGV[6+5*i])
  local m = load(KEYS[i], n, p, u, ARGV[7+5*i] == '1' and KEYS[meters+2])
  m.each = each
  list[i] = m
end
for i, m in ipairs(list) do
  units = math.min(units, math.floor(tokens(m) / m.each) - left)
  if m.held > now then units = 0 end
  at = math.max(at, ready(m, (lo + left) * m.each))
end
local ev = 0
if units < lo then
  if at - now > wait then
    for _, m in ipairs(list) do
      if m.moved then save(m) end
    end
    return {0, 0, 0, at - now}
  end
  units = lo + math.min(hi - lo, math.floor((wait - (at - now)) / every))
  ev = every
else
  at = now
end
local re, names = 0, {}
for i, m in ipairs(list) do
  charge(m, units * m.each, named)
  if units < hi then re = math.max(re, ready(m, (1 + left) * m.each)) end
  save(m)
  if named then names[i] = string.format('%d %d %d %d %s', m.seq, units * m.each, units * m.each, #m.key, m.key) end
end
if named then
  redis.call('SET', KEYS[meters+1], string.format('T %s %d %d %d %d ', ARGV[4], units, at, ev, re) .. table.concat(names, ' '),
    'PX', ARGV[2])
end
return {units, at - now, ev, math.max(0, re - now)}
