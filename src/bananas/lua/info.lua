#!lua flags=no-writes
-- All that is known of one job.
-- KEYS 12 result:<id>, 13 notes:<id>
-- ARGV 2 id
-- Returns {now ms, state, number, place, priority, body, tries, owner boot:fence, 1 if cancel wanted, packed result, 1 if paused, notes}: state is one of
--   ready (number = ms of entry, place = jobs before it), scheduled (due ms), leased (expiry ms), dead (ms of death), done, or none;
--   absent parts are nil ('' inside the reply). Reads at most 10,000 leases to find the owner.
local id = ARGV[2]
local ready, due, died = call('ZSCORE', READY, id), call('ZSCORE', SCHEDULED, id), call('ZSCORE', DEAD, id)
local body, result = call('HGET', JOBS, id), call('GET', KEYS[12])
local priority = tonumber(call('HGET', PRIO, id) or tonumber(string.sub(id, 41, 43), 16))
local state, number, place, owner = result and 'done' or 'none', '', '', ''
if ready then
  state, number, place = 'ready', string.format('%.0f', ready % STEP), call('ZRANK', READY, id)
elseif due then
  state, number = 'scheduled', due
elseif died then
  state, number = 'dead', died
elseif body then
  local members = call('ZREVRANGE', LEASES, 0, 9999, 'WITHSCORES')
  state = 'leased'
  for i = 1, #members, 2 do
    if string.sub(members[i], 1, 43) == id then owner, number = string.sub(members[i], 45), members[i + 1] break end
  end
end
return {NOW, state, number, place, priority, body or '', call('HGET', TRIES, id) or '', owner, call('SISMEMBER', CANCELLED, id), result or '',
  call('HEXISTS', META, 'paused'), call('GET', KEYS[13]) or ''}
