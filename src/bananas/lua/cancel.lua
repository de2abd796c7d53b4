#!lua flags=allow-oom
-- End waiting jobs by name, and mark running ones for their workers to stop.
-- KEYS 12.. result:<id> of each job
-- ARGV 2 ttl ms of the result (0 = keep none), 3 packed result, 4 '1' to mark running jobs too (a purge leaves them), then the ids
-- Returns a string, per job 'e' (ended), 'm' (running, marked), 'r' (running, left), 'd' (dead: left), '0' (not found).
-- Cost: about 5 us a job.
local reply, ended = {}, {}
for i, key in ipairs({unpack(KEYS, 12)}) do
  local id = ARGV[4 + i]
  if call('ZREM', READY, id) + call('ZREM', SCHEDULED, id) > 0 then
    reply[i] = 'e'
    if ARGV[2] ~= '0' then call('SET', key, ARGV[3], 'PX', ARGV[2]) end
    forget({id})
    ended[#ended + 1] = key
  elseif call('ZSCORE', DEAD, id) then
    reply[i] = 'd'
  elseif call('HEXISTS', JOBS, id) == 1 then
    reply[i] = ARGV[4] == '1' and 'm' or 'r'
    if ARGV[4] == '1' then call('SADD', CANCELLED, id) end
  else
    reply[i] = '0'
  end
end
for _, key in ipairs(ended) do redis.pcall('PUBLISH', key, ARGV[3]) end
return table.concat(reply)
