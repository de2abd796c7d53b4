#!lua flags=allow-oom
-- Hand leased jobs back unused: into ready at their old place (a priority that was changed meanwhile holds), no attempt counted.
-- KEYS 12 seen:<boot>.release
-- ARGV 2 turn, 3 count, then per job: member id:boot:fence, score at claim
-- Returns a string, per job '1' (ready) or '0' (the lease is lost: nothing was changed for it); error STALE.
-- Cost: about 3 us a job at 100 jobs.
local turn, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local resent = remembered(KEYS[12], turn)
if resent then return resent end
local reply, scored, members = {}, {}, {}
for i = 1, count do
  local member = ARGV[2 + 2 * i]
  local held = call('ZSCORE', LEASES, member)
  reply[i] = held and '1' or '0'
  if held then
    local id = string.sub(member, 1, 43)
    scored[#scored + 1], scored[#scored + 2] = score_at(id, ARGV[3 + 2 * i] % STEP), id
    members[#members + 1] = member
  end
end
make_ready(scored)
if #members > 0 then call('ZREM', LEASES, unpack(members)) end
return remember(KEYS[12], turn, table.concat(reply))
