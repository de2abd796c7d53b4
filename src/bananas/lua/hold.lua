#!lua flags=allow-oom
-- The first step of moving jobs to another queue: keep waiting ones out of every worker's reach for a while, and tell what is stored of them.
-- A mover that dies leaves them scheduled: they become ready when that time is over.
-- KEYS none beyond the fixed ones
-- ARGV 2 ms for which they are kept, then the ids (at most 100)
-- Returns {per job 'r' (was ready), 's' (scheduled), 'l' (running: left), 'd' (dead: left), '0' (not found), as a string, {score before, ...},
--   {body, ...}, {tries, ...}, {prio, ...}, {unique, ...}, now ms}
local codes, scores, until_ms, ids = {}, {}, NOW + ARGV[2], {unpack(ARGV, 3)}
for i, id in ipairs(ids) do
  local ready, due = call('ZSCORE', READY, id), call('ZSCORE', SCHEDULED, id)
  scores[i] = ready or due or ''
  if ready or due then
    codes[i] = ready and 'r' or 's'
    if ready or tonumber(due) < until_ms then call('ZADD', SCHEDULED, until_ms, id) end
    if ready then call('ZREM', READY, id) end
  else
    codes[i] = call('ZSCORE', DEAD, id) and 'd' or call('HEXISTS', JOBS, id) == 1 and 'l' or '0'
  end
end
return {table.concat(codes), scores, call('HMGET', JOBS, unpack(ids)), call('HMGET', TRIES, unpack(ids)), call('HMGET', PRIO, unpack(ids)),
  call('HMGET', UNIQUE, unpack(ids)), NOW}
