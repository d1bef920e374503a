from lin import *
tr=(~META.held).to_numpy(); K=META.kind.to_numpy(); SRC=META.src.to_numpy(); S=slice(0,1120); cl=META.clean.to_numpy()
m=tr&(K=='clean'); zz=lambda d:{k:round(float(((d-d.mean())/d.std())[SUB==k].mean()),2) for k in sorted(set(SUB))}
print('MOS',zz(MOS)); GL=zs.set_index('image').value.reindex(LAB.image).to_numpy(); print('ll',zz(GL))
f=ridge(POOL[m][:,S],cl[m],3e4); print('clean',zz(f(DEV[:,S])))
f=ridge(POOL[tr][:,S],cl[tr],3e4); print('clean+web=1',zz(f(DEV[:,S])))
# oracle: align subset means
d=f(DEV[:,S]); f2=ridge(POOL[m][:,S],cl[m],3e4); d=f2(DEV[:,S]); d=d/d.std()
for sh in (0,.2,.4,.6,.8,1): print(sh, sr(d+sh*(SUB=='ss03'),MOS))
