#!lua
-- Fire a cron tick, or a run that an operator asked for, and submit its jobs, exactly once however many processes try. Refused when the
-- server is full: the tick is kept.
-- KEYS 12 cron
-- ARGV 2 entry name, 3 packed schedule, 4 the tick in ms that the caller saw (of an operator's run: when it was asked for), 5 the next tick
--   ('' for an operator's run), 6 how many ticks were passed over, then per job: id, packed envelope, unique key or ''
-- Returns {1 if this call fired the tick else 0, jobs submitted}.
local name, state, asked_for = ARGV[2], ARGV[2] .. '\0state', ARGV[5] == ''
local seen, announced, schedule = string.match(call('HGET', KEYS[12], name) or '', '^(%d+) (%d+) (.*)$')
local known = '^%d+ %d+ (%d+) (%d+) (%d+) (%d+) (.*)$'
local paused, asked, last, missed, last_id = string.match(call('HGET', KEYS[12], state) or '', known)
if not paused then paused, asked, last, missed, last_id = '0', '0', '0', '0', '' end
if schedule ~= ARGV[3] or (asked_for and asked or seen) ~= ARGV[4] or (paused ~= '0' and not asked_for) then return {0, 0} end
local scored = {}
for i = 7, #ARGV, 3 do
  local id, key = ARGV[i], ARGV[i + 2]
  if key == '' or call('HSETNX', UNIQUE, '=' .. key, id) == 1 then
    if key ~= '' then call('HSET', UNIQUE, id, key) end
    call('HSET', JOBS, id, struct.pack('>I8', NOW) .. ARGV[i + 1])
    scored[#scored + 1], scored[#scored + 2] = score_at(id, NOW), id
  end
end
make_ready(scored)
local submitted = #scored / 2
if submitted > 0 then last, last_id = string.format('%.0f', NOW), scored[#scored] end
if asked_for then
  asked = '0'
else
  missed = string.format('%.0f', missed + ARGV[6] + (#ARGV - 6) / 3 - submitted)
  call('HSET', KEYS[12], name, ARGV[5] .. ' ' .. announced .. ' ' .. schedule)
end
call('HSET', KEYS[12], state, table.concat({'0', '9999999999999', paused, asked, last, missed, last_id}, ' '))
return {1, submitted}
