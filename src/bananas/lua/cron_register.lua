#!lua flags=allow-oom
-- Announce cron entries: a new or changed one gets its first tick, a known one stays as it is. While two versions of the code announce one
-- entry with two schedules, that of the newer holds: the one that it replaced is passed over for as long as the newer one is announced.
-- KEYS 12 cron
-- ARGV 2.. per entry: name, packed schedule, first tick in ms
-- Returns {now ms, per entry its next tick in ms (one that is passed over: when to ask again) and when an operator asked for a run (0: not)}.
--   A field reads "next announced schedule", that of name..'\0older' has the schedule that was replaced; maintenance deletes what nobody has
--   announced for 24 h. That of name..'\0state' reads "0 FAR paused asked last missed last-id": since when, and when, in ms, or 0. The
--   next tick of a paused entry is FAR: no worker fires it, nor one of a version that knows no pause.
local GRACE, FAR = 30000, '9999999999999'
local reply, now = {NOW}, string.format('%.0f', NOW)

local function read(field) return string.match(call('HGET', KEYS[12], field) or '', '^(%d+) (%d+) (.*)$') end

for i = 2, #ARGV, 3 do
  local name, wanted = ARGV[i], ARGV[i + 1]
  local next_ms, announced, schedule = read(name)
  local _, _, older = read(name .. '\0older')
  local _, _, state = read(name .. '\0state')
  local paused, asked = string.match(state or '', '^(%d+) (%d+)')
  if schedule and schedule ~= wanted and older == wanted and NOW - announced < GRACE then
    reply[#reply + 1], reply[#reply + 2] = NOW + GRACE, 0
  else
    if schedule and schedule ~= wanted then
      call('HSET', KEYS[12], name .. '\0older', '0 ' .. now .. ' ' .. schedule)
    end
    if schedule ~= wanted then next_ms = ARGV[i + 2] end
    if paused and paused ~= '0' then next_ms = FAR end
    call('HSET', KEYS[12], name, next_ms .. ' ' .. now .. ' ' .. wanted)
    reply[#reply + 1], reply[#reply + 2] = tonumber(next_ms), tonumber(asked or 0)
  end
end
return reply
