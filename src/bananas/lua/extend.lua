#!lua flags=allow-oom
-- Renew leases, and say which are lost and which jobs somebody wants stopped.
-- KEYS none beyond the fixed ones
-- ARGV 2 lease ms, 3 pulse gap ms, then at most 1,000 members id:boot:fence
-- Returns {now ms, per member '1' (renewed) or '0' (lost), per member '1' (cancel wanted) or '0'}, the last two as strings.
-- Cost: about 1.5 us a lease.
pulse(tonumber(ARGV[3]))
if #ARGV == 3 then return {NOW, '', ''} end
local members, ids, renew = {unpack(ARGV, 4)}, {}, {}
local expiry = NOW + ARGV[2]
local scores = call('ZMSCORE', LEASES, unpack(members))
for i, member in ipairs(members) do
  ids[i] = string.sub(member, 1, 43)
  if scores[i] then renew[#renew + 1], renew[#renew + 2] = expiry, member end
  scores[i] = scores[i] and '1' or '0'
end
if #renew > 0 then call('ZADD', LEASES, 'XX', 'GT', unpack(renew)) end
return {NOW, table.concat(scores), table.concat(call('SMISMEMBER', CANCELLED, unpack(ids)))}
