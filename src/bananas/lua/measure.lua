#!lua flags=no-writes
-- The figures of a queue at one moment.
-- KEYS none beyond the fixed ones
-- ARGV none beyond the clock
-- Returns {now ms, ready, scheduled, leased, dead, ms since when it is paused or nil, due ms of the first scheduled job or '',
--   {priority, jobs ready, ms of entry of the oldest, ...}}. Cost: three commands per priority in use; there are at most 1,001.
local due = call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2] or ''
local priorities, rank = {}, 0
while true do
  local score = call('ZRANGE', READY, rank, rank, 'WITHSCORES')[2]
  if not score then break end
  local priority = math.floor(score / STEP)
  local below = string.format('%.0f', priority * STEP)
  local count = call('ZCOUNT', READY, below, string.format('(%.0f', (priority + 1) * STEP))
  priorities[#priorities + 1], priorities[#priorities + 2] = priority, count
  priorities[#priorities + 1] = string.format('%.0f', score - priority * STEP)
  rank = rank + count
end
return {NOW, call('ZCARD', READY), call('ZCARD', SCHEDULED), call('ZCARD', LEASES), call('ZCARD', DEAD), call('HGET', META, 'paused'), due,
  priorities}
