-- KEYS: the crowd, a sorted set of places by the millisecond until which each is counted. A place is a holder's name and
-- behind it that of the node which holds it. ARGV: the holder; the node; the most holders; for how many milliseconds it is
-- counted. Answers 1 when it is, 0 when others fill the crowd. A holder is counted once, on however many nodes it is held.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local place, most = ARGV[1] .. ARGV[2], tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if not redis.call('ZSCORE', KEYS[1], place) and redis.call('ZCARD', KEYS[1]) >= most then
  local seen, holders = {}, 0
  for _, held in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local holder = string.sub(held, 1, #ARGV[1])
    if not seen[holder] then
      seen[holder], holders = true, holders + 1
    end
  end
  if holders >= most and not seen[ARGV[1]] then
    return 0
  end
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[4]), place)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
