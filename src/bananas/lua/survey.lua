#!lua flags=no-writes
-- One step of a search: read on in a place, in order of score, and tell all that is known of the jobs that may match.
-- KEYS none beyond the fixed ones; PLACE stands for one of ready, scheduled, leases and dead
-- ARGV 2 place, 3 '1' from the last to the first, 4 score and 5 member behind which to read on ('' = from the edge), 6 lowest and 7 highest
--   score, 8 most entries to look at (at most 1,000), 9 most bytes of bodies (at least one job), then the task tags (none = every task)
-- Returns {now ms, entries looked at, entries left in that range, last score, last member,
--   {position among those looked at, member, score, ...}, {body, ...}, {tries, ...}, {prio, ...}, {1 if cancel wanted, ...}, {unique, ...}}
-- Cost: about 1 us an entry without bodies; the first entry is found in about 20 steps, whatever is there.
local places = {ready = READY, scheduled = SCHEDULED, leases = LEASES, dead = DEAD}
local PLACE, backwards, most, budget = places[ARGV[2]], ARGV[3] == '1', tonumber(ARGV[8]), tonumber(ARGV[9])
local low, high, tags = tonumber(ARGV[6]), tonumber(ARGV[7]), #ARGV > 9 and {} or nil
for i = 10, #ARGV do tags[ARGV[i]] = true end

-- How many entries come before (score, member); with `too`, that one counts.
local function before(score, member, too)
  local first, last = 0, call('ZCARD', PLACE)
  while first < last do
    local middle = math.floor((first + last) / 2)
    local entry = call('ZRANGE', PLACE, middle, middle, 'WITHSCORES')
    local at = tonumber(entry[2])
    if at < score or (at == score and (entry[1] < member or (too and entry[1] == member))) then first = middle + 1 else last = middle end
  end
  return first
end

local from, to = before(low, '', false), before(high + 1, '', false)
if ARGV[4] ~= '' and backwards then to = math.min(to, before(tonumber(ARGV[4]), ARGV[5], false)) end
if ARGV[4] ~= '' and not backwards then from = math.max(from, before(tonumber(ARGV[4]), ARGV[5], true)) end
local size = math.max(0, math.min(most, to - from))
local first = backwards and to - size or from
local entries = size > 0 and call('ZRANGE', PLACE, first, first + size - 1, 'WITHSCORES') or {}
local picked, ids, bodies, bytes, last = {}, {}, {}, 0, size
for i = 1, size do
  local at = backwards and size - i + 1 or i
  local member = entries[2 * at - 1]
  if not tags or tags[string.sub(member, 33, 40)] then
    local body = call('HGET', JOBS, string.sub(member, 1, 43)) or ''
    bytes = bytes + #body
    if bytes > budget and #ids > 0 then last = i - 1 break end
    ids[#ids + 1], bodies[#bodies + 1] = string.sub(member, 1, 43), body
    picked[#picked + 1], picked[#picked + 2], picked[#picked + 3] = i, member, entries[2 * at]
  end
end
local at = backwards and size - last + 1 or last
local left = math.max(0, to - from - last)
if #ids == 0 then return {NOW, last, left, entries[2 * at] or '', entries[2 * at - 1] or '', {}, {}, {}, {}, {}, {}} end
local function some(command, key) return call(command, key, unpack(ids)) end
return {NOW, last, left, entries[2 * at], entries[2 * at - 1], picked, bodies, some('HMGET', TRIES), some('HMGET', PRIO),
  some('SMISMEMBER', CANCELLED), some('HMGET', UNIQUE)}
