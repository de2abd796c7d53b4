#!lua flags=allow-oom
-- Delete dead jobs by name.
-- KEYS 12 seen:<boot>.act, 13.. notes:<id> of each job, which go too
-- ARGV 2 number of the act (0 = not remembered), then the ids (at most 1,000)
-- Returns how many were deleted (a resend: the same as text); error STALE.
local number = tonumber(ARGV[2])
local resent = number > 0 and remembered(KEYS[12], number)
if resent then return resent end
local ids = {}
for i = 3, #ARGV do
  local NOTES = KEYS[10 + i]
  if call('ZREM', DEAD, ARGV[i]) == 1 then
    ids[#ids + 1] = ARGV[i]
    call('DEL', NOTES)
  end
end
forget(ids)
if number > 0 then remember(KEYS[12], number, #ids) end
return #ids
