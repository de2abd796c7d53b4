#!lua flags=allow-oom
-- Take back the leases of workers that are gone: into ready at the back of the priority, one crash counted.
-- KEYS none beyond the fixed ones
-- ARGV 2 grace ms after the expiry, 3 pulse gap ms, 4 most leases (at most 1,000), then the members id:boot:fence of a process that is
--   known to be dead (no grace for them), or nothing: whatever has expired
-- Returns how many were taken back. A job is a suspect from its first crash on: it runs alone, and only a crash while alone counts to poison.
-- Cost: about 8 us a lease.
pulse(tonumber(ARGV[3]))
local members = {unpack(ARGV, 5)}
if #members == 0 and NOW >= tonumber(call('HGET', META, 'hold') or 0) then
  members = call('ZRANGEBYSCORE', LEASES, '-inf', NOW - ARGV[2], 'LIMIT', 0, ARGV[4])
end
local scored, taken = {}, {}
for _, member in ipairs(members) do
  local id, owner = string.sub(member, 1, 43), string.sub(member, 45)
  if call('ZSCORE', LEASES, member) then
    taken[#taken + 1] = member
    if call('HEXISTS', JOBS, id) == 1 then
      local record = call('HGET', TRIES, id) or '0 0 0 0 - '
      local attempts, crashes, alone, since, isolated, errors = string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
      if isolated == owner then alone = alone + 1 end
      call('HSET', TRIES, id, table.concat({attempts, crashes + 1, alone, since, '-', errors}, ' '))
      scored[#scored + 1], scored[#scored + 2] = score_at(id, NOW), id
    end
  end
end
make_ready(scored)
if #taken > 0 then call('ZREM', LEASES, unpack(taken)) end
return #taken
