-- settle makes corrections, all of them or, if the name is taken, none.
-- KEYS: the name of the list, the engine's birth, then for each correction its meter and the
-- name of its Take.
-- ARGV: memory of names, what the list says ('' if it has no name), then for each correction
-- n, p, burst, cold, delta.
if ARGV[2] ~= '' then
  local done = redis.call('GET', KEYS[1])
  if done then
    if done ~= 'S ' .. ARGV[2] then return redis.error_reply('REFUSED the OpID was another operation') end
    return 1
  end
end

-- taken is what the Take of that name was charged, by meter: {number, tokens by all that was
-- said, tokens now}; nil if nobody knows.
local function taken(name)
  local done = redis.call('GET', name)
  local head, units, rest = string.match(done or '', '^(T %S+ (%S+) %S+ %S+ %S+ )(.*)$')
  if not head then return nil end
  local t, at = {head=head, order={}}, 1
  while at <= #rest do
    local _, last, seq, said, n, size = string.find(rest, '^(%S+) (%S+) (%S+) (%S+) ', at)
    local key = string.sub(rest, last + 1, last + size)
    if said == '=' then said, n = units, units end -- as take_one writes it
    t[key] = {tonumber(seq), tonumber(said), tonumber(n)}
    t.order[#t.order+1] = key
    at = last + size + 2
  end
  return t
end

-- room is how many tokens more may be charged when b and c say since when: debt is at most a
-- day, or a refill.
local function room(m, b, c)
  local refill = cost(m.u, m.n, m.p)
  return math.min(come(now + math.max(DAY, refill) + refill - b, m.n, m.p) - (m.K - c), NONE / 4)
end

local function clamp(x) return math.max(-NONE, math.min(NONE, x)) end

-- correct changes by delta what the charge numbered t[1] counts.
local function correct(m, t, delta)
  t[2] = clamp(t[2] + delta)
  local k = math.max(0, math.min(t[2], t[3] + math.max(0, delta)))
  local list = entries(m)
  local mine = 1
  while list[mine][1] < t[1] do mine = mine + 1 end
  local d = k - t[3]
  if d > 0 then
    local b, c = list[0][5], list[0][6]
    for i = 1, mine do
      if i > 1 and greater(m, list[i-1][5], list[i-1][6], b, c) then b, c = list[i-1][5], list[i-1][6] end
      if greater(m, list[i][3], list[i][4], b, c) then b, c = list[i][3], list[i][4] end
    end
    d = math.max(0, math.min(d, room(m, b, c)))
  end
  m.K, t[3] = m.K + d, t[3] + d
  for i = mine, #list do
    local e = list[i]
    if i > mine or d < 0 then e[4] = e[4] + d end
    e[6] = e[6] + d
  end
  keep(m, list)
end

local meters, names = {}, {}
for i = 1, #KEYS / 2 - 1 do
  local key, name, a = KEYS[2*i+1], KEYS[2*i+2], 5*i - 2
  local delta = tonumber(ARGV[a+4])
  if names[name] == nil then names[name] = taken(name) or false end
  local t = names[name] and names[name][key]
  if t or delta > 0 then
    local m = meters[key]
    if not m then
      m = load(key, tonumber(ARGV[a]), tonumber(ARGV[a+1]), tonumber(ARGV[a+2]), ARGV[a+3] == '1' and KEYS[2])
      meters[key] = m
    end
    if t and m.book and t[1] > m.from then
      correct(m, t, delta)
      names[name].changed = true
    elseif delta > 0 then
      charge(m, math.max(0, math.min(delta, room(m, m.b, m.c))), false)
    end
  end
end
for _, m in pairs(meters) do save(m) end
for name, t in pairs(names) do
  if t and t.changed then
    local parts = {}
    for i, key in ipairs(t.order) do
      parts[i] = string.format('%d %d %d %d %s', t[key][1], t[key][2], t[key][3], #key, key)
    end
    local left = redis.call('PTTL', name)
    redis.call('SET', name, t.head .. table.concat(parts, ' '), 'PX', math.max(1, left))
  end
end
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], 'S ' .. ARGV[2], 'PX', int(math.ceil(opmemory / 1000))) end
return 1
