#!lua flags=allow-oom
-- Undo a claim whose reply was lost: its leases go back to ready, no attempt or crash counted, and the claim, should it arrive late, is void.
-- The scores that it took are lost with its reply: each job enters ready as of its birth by the server's clock.
-- KEYS 12 seen:<boot>.claim
-- ARGV 2 boot, 3 number of the lost turn, 4 the last fence that this boot received
-- Returns how many jobs were released; 0 where it was done before: one that arrives late must not undo later claims.
-- Reads at most 10,000 leases, the newest first.
local void = tonumber(call('GET', KEYS[12]) or -1)
if tonumber(ARGV[3]) <= void then return 0 end
call('SET', KEYS[12], ARGV[3], 'PX', 3600000)
local scored, members = {}, {}
for _, member in ipairs(call('ZREVRANGE', LEASES, 0, 9999)) do
  local boot, fence = string.match(member, '^.+:(%x+):(%d+)$')
  if boot == ARGV[2] and tonumber(fence) > tonumber(ARGV[4]) and #members < 1000 then
    local id = string.sub(member, 1, 43)
    local body = call('HGET', JOBS, id)
    local birth = body and (#body < 8 and NOW or struct.unpack('>I8', body)) -- a broken one is for a worker to bury
    if body then scored[#scored + 1], scored[#scored + 2] = score_at(id, birth), id end
    members[#members + 1] = member
  end
end
make_ready(scored)
if #members > 0 then call('ZREM', LEASES, unpack(members)) end
return #members
