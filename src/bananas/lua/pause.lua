#!lua flags=allow-oom
-- Stop or resume claims from a queue; submits, settles and running jobs go on.
-- KEYS 12 seen:<boot>.act
-- ARGV 2 number of the act (0 = not remembered), 3 '1' to pause, '0' to resume
-- Returns 1 if the state changed, else 0 (a resend: the same as text); error STALE.
local number = tonumber(ARGV[2])
local resent = number > 0 and remembered(KEYS[12], number)
if resent then return resent end
local changed
if ARGV[3] == '1' then
  call('DEL', WAKE)
  changed = call('HSETNX', META, 'paused', string.format('%.0f', NOW))
else
  changed = call('HDEL', META, 'paused')
  if call('EXISTS', READY) + call('EXISTS', SCHEDULED) > 0 then arm() end
end
if number > 0 then remember(KEYS[12], number, changed) end
return changed
