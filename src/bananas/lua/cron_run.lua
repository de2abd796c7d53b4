#!lua flags=allow-oom
-- Ask for a run of a cron entry now, besides its ticks: a worker that announces it submits its job with its next look, also while it is paused.
-- KEYS 12 cron
-- ARGV 2 entry name, 3 ms within which somebody must have announced it
-- Returns when it was asked for in ms: now, or earlier where a run that was asked for has not begun; -1 if there is no such entry, -2 if
--   nobody announces it: nothing was done.
local state = ARGV[2] .. '\0state'
local announced = string.match(call('HGET', KEYS[12], ARGV[2]) or '', '^%d+ (%d+) ')
if not announced then return -1 end
if NOW - announced > tonumber(ARGV[3]) then return -2 end
local paused, asked, rest = string.match(call('HGET', KEYS[12], state) or '', '^%d+ %d+ (%d+) (%d+) (%d+ %d+ .*)$')
if not paused then paused, asked, rest = '0', '0', '0 0 ' end
if asked ~= '0' then return tonumber(asked) end
call('HSET', KEYS[12], state, '0 9999999999999 ' .. paused .. ' ' .. string.format('%.0f', NOW) .. ' ' .. rest)
return NOW
