#!lua flags=allow-oom
-- Put leased jobs back for later: a failed attempt, a snooze, a task that this worker does not know.
-- KEYS 12 seen:<boot>.retry
-- ARGV 2 turn, 3 count, then per job: member id:boot:fence, delay in ms, tries record
-- Returns a string, per job '1' (scheduled) or '0' (the lease is lost: nothing was changed for it); error STALE.
-- Cost: about 5 us a job at 100 jobs.
local turn, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local resent = remembered(KEYS[12], turn)
if resent then return resent end
local first = tonumber(call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]) or math.huge
local reply, soonest = {}, math.huge
for i = 1, count do
  local member, due = ARGV[1 + 3 * i], NOW + ARGV[2 + 3 * i]
  local id = string.sub(member, 1, 43)
  local held = call('ZSCORE', LEASES, member)
  reply[i] = held and '1' or '0'
  if held then
    if call('SISMEMBER', CANCELLED, id) == 1 then due = NOW end -- its next claim ends it
    call('HSET', TRIES, id, ARGV[3 + 3 * i])
    call('ZADD', SCHEDULED, due, id)
    call('ZREM', LEASES, member)
    soonest = math.min(soonest, due)
  end
end
if soonest < first then arm() end
return remember(KEYS[12], turn, table.concat(reply))
