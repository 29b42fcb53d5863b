-- publish appends events to the stream, each ID once, and returns how many it was given.
-- KEYS: the stream, then one for each ID. ARGV: memory of IDs in milliseconds, how many the
-- stream keeps, then of each event id, call, seq, type, at, payload.
for i = 1, #KEYS - 1 do
  if redis.call('SET', KEYS[1+i], '1', 'NX', 'PX', ARGV[1]) then
    local a = 6 * i - 3
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'id', ARGV[a], 'call', ARGV[a+1], 'seq', ARGV[a+2],
      'type', ARGV[a+3], 'at', ARGV[a+4], 'payload', ARGV[a+5])
  end
end
return #KEYS - 1
