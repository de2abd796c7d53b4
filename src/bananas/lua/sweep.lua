#!lua flags=allow-oom
-- Remove a name that is no job id from everywhere. What is stored under it goes to the dead letter queue first, under a new id.
-- KEYS none beyond the fixed ones
-- ARGV 2 '1' to act, '' to tell what would be done, 3 the name, 4 the new id, 5 its tries record
-- Returns 'buried' (its body is dead under the new id), 'removed' (there was no body), or '' (the name is an id, or nowhere).
local act, name, id = ARGV[2] == '1', ARGV[3], ARGV[4]
if #name == 43 and string.find(name, '^[0-9a-f]+$') then return '' end
local body = call('HGET', JOBS, name)
local placed = call('ZSCORE', READY, name) or call('ZSCORE', SCHEDULED, name) or call('ZSCORE', DEAD, name) or call('ZSCORE', LEASES, name)
local beside = call('HGET', PRIO, name) or call('HEXISTS', TRIES, name) + call('SISMEMBER', CANCELLED, name) > 0
if not (body or placed or beside) then return '' end
local buried = body and #body > 8
if act then
  if buried then
    call('HSET', JOBS, id, body)
    call('HSET', TRIES, id, ARGV[5])
    call('ZADD', DEAD, NOW, id)
  end
  call('ZREM', READY, name)
  call('ZREM', SCHEDULED, name)
  call('ZREM', DEAD, name)
  call('ZREM', LEASES, name)
  forget({name})
end
return buried and 'buried' or 'removed'
