#!lua flags=allow-oom
-- Announce cron entries: a new or changed one gets its first tick, a known one stays as it is.
-- KEYS 12 cron
-- ARGV 2.. per entry: name, packed schedule, first tick in ms
-- Returns {now ms, per entry its next tick in ms}. A field reads "next announced schedule"; entries that nobody announces for 24 h are deleted by maintenance.
local reply = {NOW}
for i = 2, #ARGV, 3 do
  local next_ms, _, schedule = string.match(call('HGET', KEYS[12], ARGV[i]) or '', '^(%d+) (%d+) (.*)$')
  if schedule ~= ARGV[i + 1] then next_ms = ARGV[i + 2] end
  call('HSET', KEYS[12], ARGV[i], next_ms .. ' ' .. string.format('%.0f', NOW) .. ' ' .. ARGV[i + 1])
  reply[#reply + 1] = tonumber(next_ms)
end
return reply
