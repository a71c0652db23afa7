-- KEYS: the budget. ARGV: now, or nothing for Redis' own time; interval, period in microseconds; milliseconds after which
-- the budget is forgotten; the most places to take. Answers how many places were taken, and for how many microseconds from
-- now on the budget is filled then. The rule is domain::Quota::lease.
-- Since Redis 5 the effects of a script are replicated and not its text, so it may ask for the time and then write.
local now, interval, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local most = tonumber(ARGV[5])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local full = now + period
local kept = tonumber(redis.call('GET', KEYS[1]) or '')
local filled = math.min(math.max(kept or now, now), full)
local places = math.min(math.floor((full - filled) / interval), most)
filled = filled + places * interval
if filled == kept then
  return {0, filled - now}
end
-- Lua would write a number of this size with an exponent and fewer digits.
redis.call('SET', KEYS[1], string.format('%.0f', filled), 'PX', ARGV[4])
return {places, filled - now}
