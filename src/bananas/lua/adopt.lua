#!lua
-- The second step of a move: take a job of another queue in, once. Refused when the server is full.
-- KEYS 12 came:<id>
-- ARGV 2 id, 3 body as it was stored, 4 tries or '', 5 unique key or '', 6 ms until it is due (0 = ready now), 7 ms for which it is remembered
-- Returns 'e' (it is here, from this call or an earlier one), 'u' (its unique key is held by another job: nothing was done).
local id, key = ARGV[2], ARGV[5]
if call('EXISTS', KEYS[12]) == 1 then return 'e' end
if key ~= '' and call('HSETNX', UNIQUE, '=' .. key, id) == 0 then return 'u' end
if key ~= '' then call('HSET', UNIQUE, id, key) end
call('HSET', JOBS, id, ARGV[3])
if ARGV[4] ~= '' then call('HSET', TRIES, id, ARGV[4]) end
if ARGV[6] == '0' then
  make_ready({score_at(id, NOW), id})
else
  call('ZADD', SCHEDULED, NOW + ARGV[6], id)
  arm()
end
call('SET', KEYS[12], '1', 'PX', ARGV[7])
return 'e'
