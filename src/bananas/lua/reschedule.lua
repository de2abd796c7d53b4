#!lua flags=allow-oom
-- Change when waiting jobs become ready.
-- KEYS 12 seen:<boot>.act
-- ARGV 2 number of the act (0 = not remembered), 3 delay in ms from now (0 = ready now; one that is ready keeps its place), then the ids
-- Returns a string, per job 'e' (done), 'l' (running: left), 'd' (dead: left), '0' (not found); error STALE.
local number = tonumber(ARGV[2])
local resent = number > 0 and remembered(KEYS[12], number)
if resent then return resent end
local reply, scored, moved, due = {}, {}, {}, NOW + ARGV[3]
local first = tonumber(call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]) or math.huge
for i = 4, #ARGV do
  local id = ARGV[i]
  local ready = call('ZSCORE', READY, id)
  if ready or call('ZSCORE', SCHEDULED, id) then
    reply[#reply + 1] = 'e'
    if ARGV[3] == '0' then
      if not ready then scored[#scored + 1], scored[#scored + 2], moved[#moved + 1] = score_at(id, NOW), id, id end
    else
      call('ZADD', SCHEDULED, due, id)
      call('ZREM', READY, id)
      if due < first then arm() end
    end
  else
    reply[#reply + 1] = call('ZSCORE', DEAD, id) and 'd' or call('HEXISTS', JOBS, id) == 1 and 'l' or '0'
  end
end
make_ready(scored)
if #moved > 0 then call('ZREM', SCHEDULED, unpack(moved)) end
if number > 0 then remember(KEYS[12], number, table.concat(reply)) end
return table.concat(reply)
