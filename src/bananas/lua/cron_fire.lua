#!lua
-- Fire a cron tick and submit its jobs, exactly once however many processes try. Refused when the server is full: the tick is kept.
-- KEYS 12 cron
-- ARGV 2 entry name, 3 packed schedule, 4 the tick in ms that the caller saw, 5 the next tick, then per job: id, packed envelope, unique key or ''
-- Returns {1 if this call fired the tick else 0, jobs submitted}.
local seen, announced, schedule = string.match(call('HGET', KEYS[12], ARGV[2]) or '', '^(%d+) (%d+) (.*)$')
if seen ~= ARGV[4] or schedule ~= ARGV[3] then return {0, 0} end
local scored = {}
for i = 6, #ARGV, 3 do
  local id, key = ARGV[i], ARGV[i + 2]
  if key == '' or call('HSETNX', UNIQUE, '=' .. key, id) == 1 then
    if key ~= '' then call('HSET', UNIQUE, id, key) end
    call('HSET', JOBS, id, struct.pack('>I8', NOW) .. ARGV[i + 1])
    scored[#scored + 1], scored[#scored + 2] = score_at(id, NOW), id
  end
end
make_ready(scored)
call('HSET', KEYS[12], ARGV[2], ARGV[5] .. ' ' .. announced .. ' ' .. schedule)
return {1, #scored / 2}
