-- KEYS: the crowd, a sorted set of holders by the millisecond until which each is counted. ARGV: the holder; the most
-- holders; for how many milliseconds it is counted. Answers 1 when it is, 0 when others fill the crowd.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local is_counted = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not is_counted and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
