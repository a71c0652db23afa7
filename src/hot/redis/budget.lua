-- KEYS: the budget. ARGV: now, interval, period in microseconds; milliseconds after which the budget is forgotten; the
-- most places to take. Answers how many places were taken, and until when the budget is filled then, in microseconds.
-- The rule is domain::Quota::lease.
local now, interval, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local most = tonumber(ARGV[5])
local full = now + period
local filled = tonumber(redis.call('GET', KEYS[1]) or '')
if not (filled and filled > now) then
  filled = now
end
if filled > full then
  filled = full
end
local places = math.min(math.floor((full - filled) / interval), most)
if places < 1 then
  return {0, filled}
end
filled = filled + places * interval
-- Lua would write a number of this size with an exponent and fewer digits.
redis.call('SET', KEYS[1], string.format('%.0f', filled), 'PX', ARGV[4])
return {places, filled}
