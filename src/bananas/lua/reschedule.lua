#!lua flags=allow-oom
-- Change when waiting jobs become ready.
-- KEYS none beyond the fixed ones
-- ARGV 2 delay in ms from now (0 = ready now; one that is ready keeps its place), then the ids
-- Returns a string, per job 'e' (done), 'l' (running: left), 'd' (dead: left), '0' (not found).
local reply, scored, moved, due = {}, {}, {}, NOW + ARGV[2]
local first = tonumber(call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]) or math.huge
for i = 3, #ARGV do
  local id = ARGV[i]
  local ready = call('ZSCORE', READY, id)
  if ready or call('ZSCORE', SCHEDULED, id) then
    reply[#reply + 1] = 'e'
    if ARGV[2] == '0' then
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
return table.concat(reply)
