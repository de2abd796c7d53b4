#!lua flags=allow-oom
-- Pause a cron entry, or resume it. Ticks that pass in between are not made up for.
-- KEYS 12 cron
-- ARGV 2 entry name, 3 packed schedule that the caller saw, 4 '1' to pause, '0' to resume, 5 the first tick after a resume in ms
-- Returns 1 if it changed, 0 if it was so already, -1 if there is no such entry, or its schedule is another by now: nothing was done.
local FAR, state, now = '9999999999999', ARGV[2] .. '\0state', string.format('%.0f', NOW)
local _, announced, schedule = string.match(call('HGET', KEYS[12], ARGV[2]) or '', '^(%d+) (%d+) (.*)$')
if schedule ~= ARGV[3] then return -1 end
local paused, rest = string.match(call('HGET', KEYS[12], state) or '', '^%d+ %d+ (%d+) (%d+ %d+ %d+ .*)$')
local is_paused = paused ~= nil and paused ~= '0'
if is_paused == (ARGV[4] == '1') then return 0 end
call('HSET', KEYS[12], state, '0 ' .. FAR .. ' ' .. (is_paused and '0' or now) .. ' ' .. (rest or '0 0 0 '))
call('HSET', KEYS[12], ARGV[2], (is_paused and ARGV[5] or FAR) .. ' ' .. announced .. ' ' .. schedule)
return 1
