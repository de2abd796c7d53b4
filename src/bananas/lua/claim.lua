#!lua flags=allow-oom
-- Lease ready jobs to one worker, best first; with a filter, only jobs of these priorities and tasks (the rest stay for others).
-- KEYS 12 seen:<boot>.claim (set by recover: turns up to its number are void)
-- ARGV 2 boot, 3 turn, 4 most jobs, 5 lease ms, 6 most bytes, 7 pulse gap ms, 8 cursor (rank where a scan for tasks begins),
--   9 count of priorities, then the priorities, then the task tags; both empty = everything
-- Returns {now ms, fence, left in ready, ms until the next scheduled job or -1, 1 if paused, cursor for the next turn,
--   {id, score, ...}, {body, ...}, {tries or nil, ...} or {}, {1 if cancelled, ...} or {}}; nothing claimed: fence 0.
-- Cost: about 5 us a job at 100 jobs; a scan for tasks reads at most 1,000 ids.
local most, budget, cursor, wanted = tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[8]), tonumber(ARGV[9])
local picked, paused = {}, call('HEXISTS', META, 'paused')
local void = tonumber(call('GET', KEYS[12]) or -1)
local next_due = call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]
next_due = next_due and math.max(0, next_due - NOW) or -1
pulse(tonumber(ARGV[7]))
if paused == 1 or tonumber(ARGV[3]) <= void then most = 0 end
if most > 0 and #ARGV == 9 then
  picked = call('ZRANGE', READY, 0, most - 1, 'WITHSCORES')
elseif most > 0 and #ARGV == 9 + wanted then
  for i = 10, 9 + wanted do
    local from = ARGV[i] * STEP
    local found = call('ZRANGEBYSCORE', READY, from, string.format('(%.0f', from + STEP), 'WITHSCORES', 'LIMIT', 0, most - #picked / 2)
    for _, part in ipairs(found) do picked[#picked + 1] = part end
  end
elseif most > 0 then
  local priorities, tags = {}, {}
  for i = 10, 9 + wanted do priorities[tonumber(ARGV[i])] = true end
  for i = 10 + wanted, #ARGV do tags[ARGV[i]] = true end
  local found = call('ZRANGE', READY, cursor, cursor + 999, 'WITHSCORES')
  for i = 1, #found, 2 do
    if #picked < 2 * most and tags[string.sub(found[i], 33, 40)] and (wanted == 0 or priorities[math.floor(found[i + 1] / STEP)]) then
      picked[#picked + 1], picked[#picked + 2] = found[i], found[i + 1]
    end
  end
  cursor = (#found < 2000 or #picked == 2 * most) and 0 or cursor + 1000 - #picked / 2
end
if #picked == 0 then return {NOW, 0, call('ZCARD', READY), next_due, paused, cursor, {}, {}, {}, {}} end
-- Read bodies in slices that grow only as far as the sizes seen allow, so that one claim stays within its bytes.
local ids, bodies, bytes, slice = {}, {}, 0, 4
while #bodies < #picked / 2 and bytes < budget do
  local asked = {}
  for i = #bodies + 1, math.min(#bodies + slice, #picked / 2) do asked[#asked + 1] = picked[2 * i - 1] end
  for i, body in ipairs(call('HMGET', JOBS, unpack(asked))) do
    bytes = bytes + #(body or '')
    if bytes > budget and #bodies > 0 then break end
    ids[#ids + 1], bodies[#bodies + 1] = asked[i], body or ''
  end
  slice = math.max(1, math.min(4 * slice, math.floor((budget - bytes) * #bodies / (bytes + 1))))
end
local fence = call('HINCRBY', META, 'fence', 1)
local members, expiry, owner = {}, string.format('%.0f', NOW + ARGV[5]), string.format(':%s:%010d', ARGV[2], fence)
for i = 1, #ids do members[2 * i - 1], members[2 * i] = expiry, ids[i] .. owner end
call('ZADD', LEASES, unpack(members))
if #ARGV == 9 then call('ZREMRANGEBYRANK', READY, 0, #ids - 1) else call('ZREM', READY, unpack(ids)) end
local left = call('ZCARD', READY)
if left > 0 then arm() end
local tries = call('EXISTS', TRIES) == 1 and call('HMGET', TRIES, unpack(ids)) or {}
local cancelled = call('EXISTS', CANCELLED) == 1 and call('SMISMEMBER', CANCELLED, unpack(ids)) or {}
return {NOW, fence, left, next_due, paused, cursor, picked, bodies, tries, cancelled}
