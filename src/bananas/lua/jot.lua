#!lua flags=allow-oom
-- Write down what running jobs tell of themselves: their progress, and the last lines of their logs (notes.py tells the form).
-- KEYS 12 notes:<id> of the first entry, and so on, one of each entry
-- ARGV 2 most lines to keep, then per entry: member id:boot:fence, number of the note (grows within a lease), ttl in ms (0 = delete it),
--   progress ('' = as it was), how many new lines, the lines, each with its length in 4 bytes in front
-- Returns a string, per entry '1' (written, now or by this note's first sending) or '0' (the lease is lost: nothing was changed for it).
-- Cost: about 10 us an entry, more with long logs: the value is written anew.
local most, reply = tonumber(ARGV[2]), {}

-- The stored value with more lines, and a new progress where there is one; nil where this note is in it.
local function with(stored, note, head, count, lines)
  local last, had, length, from = string.match(stored, '^(%d+ %d+) (%d+) (%d+) ()')
  if last == note then return nil end
  if not last then had, length, from = 0, 0, #stored + 1 end
  if head == '' then head = string.sub(stored, from, from + length - 1) end
  local text, total, at = string.sub(stored, from + length) .. lines, had + count, 1
  for _ = 1, total - most do
    if at + 3 > #text then break end -- it is damaged
    at = at + 4 + struct.unpack('>I4', text, at)
  end
  return table.concat({note, math.min(total, most), #head, head .. string.sub(text, at)}, ' ')
end

for i = 12, #KEYS do
  local NOTES, member, number, ttl, head, count, lines = KEYS[i], unpack(ARGV, 3 + (i - 12) * 6, 8 + (i - 12) * 6)
  local held = call('ZSCORE', LEASES, member)
  reply[i - 11] = held and '1' or '0'
  if held and ttl == '0' then
    call('DEL', NOTES)
  elseif held then
    local value = with(call('GET', NOTES) or '', string.sub(member, -10) .. ' ' .. number, head, tonumber(count), lines)
    if value then call('SET', NOTES, value, 'PX', ttl) end
  end
end
return table.concat(reply)
