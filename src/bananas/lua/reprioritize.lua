#!lua flags=allow-oom
-- Change the priority of jobs; one that waits keeps its time of entry, one that runs or is scheduled takes it when it is ready again.
-- KEYS none beyond the fixed ones
-- ARGV 2 priority 0..1000, then the ids
-- Returns a string, per job 'r' (ready), 's' (scheduled), 'l' (running), 'd' (dead: it holds for a replay), '0' (not found).
local reply = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local score = call('ZSCORE', READY, id)
  local known = call('HEXISTS', JOBS, id) == 1
  reply[#reply + 1] = score and 'r' or call('ZSCORE', SCHEDULED, id) and 's' or call('ZSCORE', DEAD, id) and 'd' or known and 'l' or '0'
  if known then call('HSET', PRIO, id, ARGV[2]) end
  if score then call('ZADD', READY, 'XX', string.format('%.0f', ARGV[2] * STEP + score % STEP), id) end
end
return table.concat(reply)
