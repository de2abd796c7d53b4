#!lua flags=allow-oom
-- Stop or resume claims from a queue; submits, settles and running jobs go on.
-- KEYS none beyond the fixed ones
-- ARGV 2 '1' to pause, '0' to resume
-- Returns 1 if the state changed, else 0.
if ARGV[2] == '1' then
  call('DEL', WAKE)
  return call('HSETNX', META, 'paused', string.format('%.0f', NOW))
end
local changed = call('HDEL', META, 'paused')
if call('EXISTS', READY) + call('EXISTS', SCHEDULED) > 0 then arm() end
return changed
