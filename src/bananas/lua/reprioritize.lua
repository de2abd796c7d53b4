#!lua flags=allow-oom
-- Change the priority of jobs; one that waits keeps its time of entry, one that runs or is scheduled takes it when it is ready again.
-- KEYS 12 seen:<boot>.act
-- ARGV 2 number of the act (0 = not remembered), 3 priority 0..1000, then the ids
-- Returns a string, per job 'r' (ready), 's' (scheduled), 'l' (running), 'd' (dead: it holds for a replay), '0' (not found); error STALE.
local number = tonumber(ARGV[2])
local resent = number > 0 and remembered(KEYS[12], number)
if resent then return resent end
local reply = {}
for i = 4, #ARGV do
  local id = ARGV[i]
  local score = call('ZSCORE', READY, id)
  local known = call('HEXISTS', JOBS, id) == 1
  reply[#reply + 1] = score and 'r' or call('ZSCORE', SCHEDULED, id) and 's' or call('ZSCORE', DEAD, id) and 'd' or known and 'l' or '0'
  if known then call('HSET', PRIO, id, ARGV[3]) end
  if score then call('ZADD', READY, 'XX', string.format('%.0f', ARGV[3] * STEP + score % STEP), id) end
end
if number > 0 then remember(KEYS[12], number, table.concat(reply)) end
return table.concat(reply)
