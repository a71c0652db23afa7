-- KEYS: the budget. ARGV: now, interval, period in microseconds; milliseconds after which the budget is forgotten.
-- Answers 0 when a place was taken, else the microseconds until there is one. The rule is domain::Quota::draw.
local now, interval, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local filled = tonumber(redis.call('GET', KEYS[1]) or '')
if not (filled and filled > now) then
  filled = now
end
if filled > now + period then
  filled = now + period
end
filled = filled + interval
local over = filled - now - period
if over > 0 then
  return over
end
-- Lua would write a number of this size with an exponent and fewer digits.
redis.call('SET', KEYS[1], string.format('%.0f', filled), 'PX', ARGV[4])
return 0
