#!lua
-- Bring dead jobs back to ready with fresh attempts; a unique key is taken again, or the replay is refused.
-- KEYS 12 seen:<boot>.act, 13.. result:<id> of each job (the old outcome is dropped, so that waiters see the new one)
-- ARGV 2 number of the act (0 = not remembered), then the ids
-- Returns a string, per job 'e' (ready), 'u' (its unique key is held by another job: left dead), '0' (not dead, or not found); error STALE.
local number = tonumber(ARGV[2])
local resent = number > 0 and remembered(KEYS[12], number)
if resent then return resent end
local reply = {}
for i, key in ipairs({unpack(KEYS, 13)}) do
  local id = ARGV[2 + i]
  local unique = call('HGET', UNIQUE, id)
  if not call('ZSCORE', DEAD, id) then
    reply[i] = '0'
  elseif unique and call('HSETNX', UNIQUE, '=' .. unique, id) == 0 then
    reply[i] = 'u'
  else
    reply[i] = 'e'
    call('HSET', TRIES, id, '0 0 0 ' .. string.format('%.0f', NOW) .. ' - ')
    call('ZADD', READY, score_at(id, NOW), id)
    call('ZREM', DEAD, id)
    call('DEL', key)
    arm()
  end
end
if number > 0 then remember(KEYS[12], number, table.concat(reply)) end
return table.concat(reply)
