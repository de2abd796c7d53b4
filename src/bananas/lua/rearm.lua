#!lua flags=allow-oom
-- Give the marker back: by a worker that popped it but took nothing, became full, or stops.
-- KEYS none beyond the fixed ones
-- ARGV none beyond the clock
-- Returns 1 if the marker is armed, else 0.
if call('EXISTS', READY) + call('EXISTS', SCHEDULED) == 0 then return 0 end
arm()
return call('EXISTS', WAKE)
