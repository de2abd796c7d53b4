#!lua flags=allow-oom
-- End waiting jobs by name, and mark running ones for their workers to stop.
-- KEYS 12 seen:<boot>.act, 13.. result:<id> of each job
-- ARGV 2 number of the act (0 = not remembered), 3 ttl ms of the result (0 = keep none), 4 packed result,
--   5 '1' to mark running jobs too (a purge leaves them), then the ids
-- Returns a string, per job 'e' (ended), 'm' (running, marked), 'r' (running, left), 'd' (dead: left), '0' (not found); error STALE.
-- Cost: about 5 us a job.
local number = tonumber(ARGV[2])
local resent = number > 0 and remembered(KEYS[12], number)
if resent then return resent end
local reply, ended = {}, {}
for i, key in ipairs({unpack(KEYS, 13)}) do
  local id = ARGV[5 + i]
  if call('ZREM', READY, id) + call('ZREM', SCHEDULED, id) > 0 then
    reply[i] = 'e'
    if ARGV[3] ~= '0' then call('SET', key, ARGV[4], 'PX', ARGV[3]) end
    forget({id})
    ended[#ended + 1] = key
  elseif call('ZSCORE', DEAD, id) then
    reply[i] = 'd'
  elseif call('HEXISTS', JOBS, id) == 1 then
    reply[i] = ARGV[5] == '1' and 'm' or 'r'
    if ARGV[5] == '1' then call('SADD', CANCELLED, id) end
  else
    reply[i] = '0'
  end
end
if number > 0 then remember(KEYS[12], number, table.concat(reply)) end
for _, key in ipairs(ended) do redis.pcall('SPUBLISH', key, ARGV[4]) end
return table.concat(reply)
