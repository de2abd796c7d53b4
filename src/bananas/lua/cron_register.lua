#!lua flags=allow-oom
-- Announce cron entries: a new or changed one gets its first tick, a known one stays as it is. While two versions of the code announce one
-- entry with two schedules, that of the newer holds: the one that it replaced is passed over for as long as the newer one is announced.
-- KEYS 12 cron
-- ARGV 2.. per entry: name, packed schedule, first tick in ms
-- Returns {now ms, per entry its next tick in ms (one that is passed over: when to ask again)}. A field reads "next announced schedule",
--   that of name..'\0older' has the schedule that was replaced; maintenance deletes what nobody has announced for 24 h.
local GRACE = 30000
local reply, now = {NOW}, string.format('%.0f', NOW)

local function read(field) return string.match(call('HGET', KEYS[12], field) or '', '^(%d+) (%d+) (.*)$') end

for i = 2, #ARGV, 3 do
  local name, wanted = ARGV[i], ARGV[i + 1]
  local next_ms, announced, schedule = read(name)
  local _, _, older = read(name .. '\0older')
  if schedule and schedule ~= wanted and older == wanted and NOW - announced < GRACE then
    reply[#reply + 1] = NOW + GRACE
  else
    if schedule and schedule ~= wanted then
      call('HSET', KEYS[12], name .. '\0older', '0 ' .. now .. ' ' .. schedule)
    end
    if schedule ~= wanted then next_ms = ARGV[i + 2] end
    call('HSET', KEYS[12], name, next_ms .. ' ' .. now .. ' ' .. wanted)
    reply[#reply + 1] = tonumber(next_ms)
  end
end
return reply
